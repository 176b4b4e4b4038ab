// The cards that pass, in their order, a page of them at a time.

const PER_PAGE = index.block;
let view = [];
let page = 0;
let sortedBy = '';
let descending = false;

const SORTS = [['', 'Order of the dataset'], ...Object.entries(index.numbers).map(([name, { label }]) => [name, label]),
  ...(index.created ? [['created', 'Time']] : [])];

const valuesOf = name => name === 'created' ? index.created : index.numbers[name].of;

/** Sorts cards by a column; those without a value come last either way. */
function sort(cards) {
  if (!sortedBy) return descending ? cards.reverse() : cards;
  const values = valuesOf(sortedBy);
  const sign = descending ? -1 : 1;
  return cards.sort((one, other) => {
    if (values[one] === null || values[other] === null) return (values[one] === null) - (values[other] === null) || one - other;
    return sign * (values[one] - values[other]) || one - other;
  });
}

/** The small words below a prompt: the model where there are several, and what the cards are sorted by. */
function note(card) {
  const told = [];
  if (manyModels) told.push(text('model_name', card) || '');
  if (sortedBy && sortedBy !== 'created' && valuesOf(sortedBy)[card] !== null) {
    told.push(`${index.numbers[sortedBy].label} ${short(valuesOf(sortedBy)[card])}`);
  }
  if (sortedBy === 'created' && index.created[card] !== null) {
    told.push(`${new Date(index.created[card] * 1000).toISOString().slice(0, 19).replace('T', ' ')} UTC`);
  }
  return told.filter(Boolean).join(' · ');
}

function cardElement(card) {
  const frame = element('span', { className: 'frame' });
  show(card, frame);
  const prompt = text('prompt', card);
  const words = note(card);
  return element('a', { className: 'card', href: hashOf(card) }, frame,
    element('span', { className: prompt === null ? 'prompt none' : 'prompt', dir: 'auto' },
      prompt === null ? 'no prompt' : prompt.slice(0, 300)),
    ...(words ? [element('span', { className: 'note', dir: 'auto' }, words)] : []));
}

function render() {
  const pages = Math.max(1, Math.ceil(view.length / PER_PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const first = page * PER_PAGE;
  const shown = view.slice(first, first + PER_PAGE);
  byId('gallery').replaceChildren(...shown.map(cardElement));
  const all = view.length === total ? '' : ` (${total.toLocaleString('en')} in all)`;
  byId('count').textContent = !view.length ? `None of ${total.toLocaleString('en')} passes the filters`
    : `${(first + 1).toLocaleString('en')}–${(first + shown.length).toLocaleString('en')} of ${view.length.toLocaleString('en')}${all}`;
  byId('pager').hidden = pages === 1;
  byId('page').value = page + 1;
  byId('page').max = pages;
  byId('pages').textContent = pages.toLocaleString('en');
  byId('earlier').disabled = page === 0;
  byId('later').disabled = page === pages - 1;
  const active = activeFilters();
  byId('active').textContent = active ? `${active} set` : '';
  byId('clear').hidden = !active;
}

/** Filters and sorts anew, from the first page. */
function refresh() {
  view = sort(filtered());
  page = 0;
  render();
}

function turnTo(number) {
  page = number;
  render();
  byId('count').scrollIntoView({ block: 'nearest' });
  if (byId('gallery').getBoundingClientRect().top < 0) byId('gallery').parentElement.scrollIntoView();
}

function buildGallery() {
  const select = byId('sort');
  select.append(...SORTS.map(([value, label]) => element('option', { value }, label)));
  select.addEventListener('change', () => { sortedBy = select.value; refresh(); });
  byId('direction').addEventListener('click', () => {
    descending = !descending;
    byId('direction').textContent = descending ? '↓' : '↑';
    refresh();
  });
  byId('earlier').addEventListener('click', () => turnTo(page - 1));
  byId('later').addEventListener('click', () => turnTo(page + 1));
  byId('page').addEventListener('change', () => turnTo(Number(byId('page').value) - 1));
  refresh();
}
