// The form of filters, and which cards pass them.

const CHOICES = [['status', 'Status'], ['error_kind', 'Why it failed'], ['model_name', 'Model'], ['provider', 'Provider']];
const FLAGS = { blank: ['Blank', 'Blank ones only', 'Without blank ones'],
  duplicate: ['Doubles', 'Doubles only', 'Without doubles'] };
const STEPS = 200;

const chosen = Object.fromEntries(CHOICES.map(([name]) => [name, new Set()]));
const ranges = {};
const flags = {};
let words = [];
let lowered = null;

/** How often each value of a column of the index is there; the last one counts what has none. */
function counts(name) {
  const { values, of } = index.texts[name];
  const counted = new Array(values.length + 1).fill(0);
  for (const code of of) counted[code === null ? values.length : code]++;
  return counted;
}

function choices([name, label], changed) {
  const values = index.texts[name].values;
  const counted = counts(name);
  if (values.length + (name === 'provider' && counted[values.length] > 0) < (name === 'error_kind' ? 1 : 2)) return [];
  const order = [...values.keys()].sort((one, other) => counted[other] - counted[one]);
  if (name === 'provider' && counted[values.length]) order.push(values.length);
  const boxes = order.map(code => {
    const box = element('input', { type: 'checkbox', name, value: values[code] ?? '' });
    box.addEventListener('change', () => {
      if (box.checked) chosen[name].add(code); else chosen[name].delete(code);
      changed();
    });
    return element('label', { className: 'choice' }, box,
      element('span', { dir: 'auto' }, values[code] ?? 'not told'),
      element('small', {}, counted[code].toLocaleString('en')));
  });
  return [element('fieldset', {}, element('legend', {}, label), ...boxes)];
}

/** Two sliders over the ranks of a column: as much of their way as of the cards. */
function slider(name, changed) {
  const { label, of } = index.numbers[name];
  const sorted = Float64Array.from(of.filter(value => value !== null)).sort();
  const at = step => sorted[Math.round(step / STEPS * (sorted.length - 1))];
  const output = element('output', {});
  const ends = ['at least', 'at most'].map((words, end) => element('input',
    { type: 'range', name: `${name}-${end ? 'most' : 'least'}`, min: 0, max: STEPS, defaultValue: end ? STEPS : 0,
      'aria-label': `${label}: ${words}` }));
  const track = element('div', { className: 'track' }, element('div', { className: 'rail' }), ...ends);
  const update = () => {
    const [low, high] = ends.map(end => Number(end.value));
    track.style.setProperty('--low', `${low / STEPS * 100}%`);
    track.style.setProperty('--high', `${high / STEPS * 100}%`);
    output.value = `${short(at(low))} – ${short(at(high))}`;
    ends.forEach((end, number) => end.setAttribute('aria-valuetext', short(at(number ? high : low))));
    if (low === 0 && high === STEPS) delete ranges[name]; else ranges[name] = [low && at(low), high === STEPS ? Infinity : at(high)];
    if (low === 0 && ranges[name]) ranges[name][0] = -Infinity;
  };
  ends.forEach((end, number) => end.addEventListener('input', () => {
    if (number) end.value = Math.max(end.value, ends[0].value); else end.value = Math.min(end.value, ends[1].value);
    update();
    changed();
  }));
  update();
  return element('fieldset', {}, element('legend', {}, label, output), track);
}

function flag(name, changed) {
  const [label, only, without] = FLAGS[name];
  const select = element('select', { name },
    element('option', { value: '' }, 'All'), element('option', { value: '1' }, only),
    element('option', { value: '0' }, without));
  select.addEventListener('change', () => {
    if (select.value) flags[name] = Number(select.value); else delete flags[name];
    changed();
  });
  return element('label', { className: 'flag' }, element('span', {}, label), select);
}

/** Fills the form. changed: is called when another choice was made. */
function buildFilters(changed) {
  const search = element('input', { type: 'search', name: 'search', placeholder: 'Words of the prompt',
    'aria-label': 'Search in the prompts' });
  let waiting = 0;
  search.addEventListener('input', () => {
    words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    clearTimeout(waiting);
    waiting = setTimeout(changed, 120);
  });
  const clear = element('button', { type: 'reset', id: 'clear', className: 'quiet', hidden: true }, 'Clear all');
  const form = byId('form');
  form.append(search, ...CHOICES.flatMap(choice => choices(choice, changed)),
    ...index.sliders.map(name => slider(name, changed)), ...Object.keys(index.flags).map(name => flag(name, changed)), clear);
  form.addEventListener('submit', event => event.preventDefault());
  form.addEventListener('reset', () => setTimeout(() => {
    words = [];
    Object.values(chosen).forEach(codes => codes.clear());
    Object.keys(flags).forEach(name => delete flags[name]);
    form.querySelectorAll('input[type=range]').forEach(end => end.dispatchEvent(new Event('input')));
    changed();
  }));
}

/** How many filters are set. */
const activeFilters = () => Number(words.length > 0) + Object.keys(ranges).length + Object.keys(flags).length
  + Object.values(chosen).filter(codes => codes.size).length;

/** The places of prompts that have all of the words; null where there are no words. */
function promptsFound() {
  if (!words.length) return null;
  lowered ??= index.texts.prompt.values.map(prompt => prompt.toLowerCase());
  return lowered.map(prompt => words.every(word => prompt.includes(word)));
}

/** The cards that pass all filters, in the order of the dataset. */
function filtered() {
  const found = promptsFound();
  const codes = CHOICES.filter(([name]) => chosen[name].size).map(([name]) => {
    const { values, of } = index.texts[name];
    return [chosen[name], of, values.length];
  });
  const within = Object.entries(ranges).map(([name, [low, high]]) => [index.numbers[name].of, low, high]);
  const flagged = Object.entries(flags).map(([name, wanted]) => [index.flags[name], wanted]);
  const passing = [];
  for (let card = 0; card < total; card++) {
    if (found && !found[index.texts.prompt.of[card]]) continue;
    if (!codes.every(([wanted, of, none]) => wanted.has(of[card] ?? none))) continue;
    if (!within.every(([of, low, high]) => of[card] !== null && of[card] >= low && of[card] <= high)) continue;
    if (!flagged.every(([of, wanted]) => of[card] === wanted)) continue;
    passing.push(card);
  }
  return passing;
}
