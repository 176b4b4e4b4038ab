// One card, opened: all pictures of its row side by side, and all that is known of the one that is chosen.

let opened = null;

/** Fields that stand below each of several pictures, with the words before them. */
const BESIDE = { seed: 'seed ', latency: '', cost: '' };

/** What tells a card from its siblings. */
function caption(card) {
  const row = siblings(card);
  const models = new Set(row.map(one => text('model_name', one))).size > 1;
  const sameModel = row.filter(one => text('model_name', one) === text('model_name', card));
  const told = models ? [text('model_name', card) || 'no model'] : [];
  if (sameModel.length > 1) told.push(`${sameModel.indexOf(card) + 1} of ${sameModel.length}`);
  return told.join(' · ');
}

function stagePicture(card) {
  const frame = element('span', { className: 'frame' });
  show(card, frame);
  if (siblings(card).length === 1) return element('div', { className: 'single' }, frame);
  const note = element('span', { className: 'note', dir: 'auto' }, caption(card));
  whenLoaded(card, ([, words]) => {
    index.fields.forEach(({ name }, number) => {
      if (name in BESIDE && words[number]) note.append(` · ${BESIDE[name]}${words[number]}`);
    });
  });
  const button = element('button', { type: 'button', className: 'sibling' }, frame, note);
  button.setAttribute('aria-pressed', String(card === opened));
  button.addEventListener('click', () => open(card));
  return button;
}

function fields(card, words) {
  const groups = new Map();
  index.fields.forEach(({ group, name, meaning }, number) => {
    if (words[number] === null || words[number] === '') return;
    if (!groups.has(group)) groups.set(group, element('dl', {}));
    const long = words[number].split('\n').some(line => line.length > 44);
    groups.get(group).append(element('div', { className: long ? 'long' : '' },
      element('dt', { title: meaning }, name), element('dd', { dir: 'auto' }, words[number])));
  });
  return [...groups].flatMap(([group, list]) => [element('h3', {}, group), list]);
}

function fill(card) {
  const row = siblings(card);
  const stage = byId('stage');
  const columns = Math.min(row.length, Math.max(2, Math.ceil(Math.sqrt(row.length))), 4);
  stage.className = row.length > 1 ? 'stage many' : 'stage';
  stage.style.setProperty('--columns', columns);
  stage.style.setProperty('--rows', Math.min(3, Math.ceil(row.length / columns)));
  stage.replaceChildren(...row.map(stagePicture));
  const place = view.indexOf(card);
  byId('detail-title').textContent = place < 0 ? `Row ${index.row[card].toLocaleString('en')}`
    : `${(place + 1).toLocaleString('en')} of ${view.length.toLocaleString('en')}`;
  byId('previous').disabled = place <= 0;
  byId('next').disabled = place < 0 || place === view.length - 1;
  const prompt = text('prompt', card);
  const label = byId('label');
  const parts = [element('p', { className: prompt === null ? 'prompt none' : 'prompt', dir: 'auto' }, prompt ?? 'no prompt')];
  if (text('status', card) === 'failed') {
    parts.push(element('p', { className: 'failure', dir: 'auto' },
      element('strong', {}, text('error_kind', card)), ` ${text('error_message', card) || ''}`));
  }
  label.replaceChildren(...parts);
  whenLoaded(card, ([, words]) => {
    if (opened === card) label.append(...fields(card, words));
  });
  label.scrollTop = 0;
}

/** Opens a card, or goes to another one; the address of the page names it. */
function open(card) {
  const focused = document.activeElement;
  const hadSibling = focused && focused.classList.contains('sibling');
  opened = card;
  fill(card);
  const dialog = byId('detail');
  if (!dialog.open) {
    dialog.showModal();
    dialog.focus();
  }
  if (hadSibling) byId('stage').querySelector('[aria-pressed=true]')?.focus();
  history.replaceState(null, '', hashOf(card));
}

/** Goes to the card so many places further, where there is one. */
function step(places) {
  const place = view.indexOf(opened);
  const card = place < 0 ? undefined : view[place + places];
  if (card !== undefined) open(card);
}

function closed() {
  const card = opened;
  opened = null;
  history.replaceState(null, '', '#pictures');
  const place = view.indexOf(card);
  if (place >= 0 && Math.floor(place / PER_PAGE) !== page) turnTo(Math.floor(place / PER_PAGE));
  byId('gallery').querySelector(`a[href="${hashOf(card)}"]`)?.focus();
}

function buildDetail() {
  const dialog = byId('detail');
  dialog.addEventListener('close', closed);
  dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('keydown', event => {
    const places = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!places || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(places);
  });
  byId('close').addEventListener('click', () => dialog.close());
  byId('previous').addEventListener('click', () => step(-1));
  byId('next').addEventListener('click', () => step(1));
}
