// What the page holds: the index of all cards, and blocks of pictures and texts that are parsed when they are needed.

const byId = id => document.getElementById(id);
const index = JSON.parse(byId('index').textContent);
const total = index.row.length;
const KEPT_BLOCKS = 80;
const parsed = new Map();

/** A new element. Text is only ever set as text. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== 'list') made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** The text of a card in a column of the index, or null. */
function text(column, card) {
  const { values, of } = index.texts[column];
  return of[card] === null ? null : values[of[card]];
}

/** Picture and texts of a card; null as long as its block is still being loaded. */
function contents(card) {
  const number = Math.floor(card / index.block);
  if (!parsed.has(number)) {
    const block = byId(`block-${number}`);
    // a block is whole as soon as anything stands behind it
    if (!block || (!block.nextSibling && document.readyState === 'loading')) return null;
    if (parsed.size >= KEPT_BLOCKS) parsed.delete(parsed.keys().next().value);
    parsed.set(number, JSON.parse(block.textContent));
  }
  return parsed.get(number)[card % index.block];
}

/** Calls `then` with the contents of a card: at once, or when they are loaded. */
function whenLoaded(card, then) {
  const found = contents(card);
  if (found) then(found); else setTimeout(() => whenLoaded(card, then), 60);
}

/** Puts the picture of a card into `frame`, or why there is none. */
function show(card, frame) {
  const status = text('status', card);
  if (status !== 'done') {
    const reason = status === 'failed' ? text('error_message', card) : 'Not asked for: a budget was reached.';
    frame.classList.add(status);
    frame.append(
      element('span', { className: 'kind' }, status === 'failed' ? text('error_kind', card) : 'pending'),
      element('span', { className: 'reason', dir: 'auto' }, reason || ''));
    return;
  }
  whenLoaded(card, ([picture]) => {
    if (picture === null) {
      frame.append(element('span', { className: 'reason' }, 'The picture cannot be shown.'));
      return;
    }
    const alt = (text('prompt', card) || 'no prompt').slice(0, 300);
    frame.append(element('img', { alt, decoding: 'async', src: `data:image/webp;base64,${picture}` }));
  });
}

/** What a card is called in the address of the page. */
const hashOf = card => `#row-${index.row[card]}${index.item[card] ? `.${index.item[card]}` : ''}`;

const cardOfHash = new Map();
for (let card = 0; card < total; card++) cardOfHash.set(hashOf(card), card);

/** The cards of the same row of the source: of all its models and generations. */
const siblings = (() => {
  const found = new Map();
  index.of.forEach((row, card) => found.has(row) ? found.get(row).push(card) : found.set(row, [card]));
  return card => found.get(index.of[card]);
})();

const manyModels = index.texts.model_name.values.length > 1;

/** A number in few characters. */
const short = value => value.toLocaleString('en',
  { ...(Math.abs(value) >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 }) });
