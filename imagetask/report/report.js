// Puts it together, and goes where the address of the page says.

function goTo(hash) {
  const card = cardOfHash.get(hash);
  const figures = hash === '#figures';
  byId('gallery-view').hidden = figures;
  byId('figures-view').hidden = !figures;
  byId('to-pictures').toggleAttribute('aria-current', !figures);
  byId('to-figures').toggleAttribute('aria-current', figures);
  if (card !== undefined) open(card); else if (byId('detail').open) byId('detail').close();
}

byId('filters').open = matchMedia('(min-width: 900px)').matches;
buildFilters(refresh);
buildGallery();
buildDetail();
addEventListener('hashchange', () => goTo(location.hash));
goTo(location.hash);
