'use strict';
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Tables are sorted by their headings; numbers by data-sort, an empty one last.
for (const table of all('table.sortable')) {
  const body = table.tBodies[0], original = [...body.rows];
  all('thead th', table).forEach((heading, column) => {
    if (!heading.textContent) return;
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute('aria-sort', 'none');
    button.addEventListener('click', () => {
      const numbers = original.some(row => row.cells[column].dataset.sort !== undefined);
      const first = numbers ? 'descending' : 'ascending';
      const second = numbers ? 'ascending' : 'descending';
      const next = { none: first, [first]: second, [second]: 'none' }[heading.getAttribute('aria-sort')];
      all('thead th[aria-sort]', table).forEach(other => other.setAttribute('aria-sort', 'none'));
      heading.setAttribute('aria-sort', next);
      const value = row => row.cells[column].dataset.sort ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === '' || y === '') return (x === '') - (y === '');
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return next === 'ascending' ? order : -order;
      };
      body.append(...(next === 'none' ? original : [...original].sort(compare)));
    });
  });
}

// A line of a plot stands out while the pointer is on its name.
for (const legend of all('.legend')) {
  const lines = all('.series', legend.parentElement);
  for (const item of legend.children) {
    const dim = on => lines.forEach(l => l.classList.toggle('dimmed', on && l.dataset.series !== item.dataset.series));
    item.addEventListener('pointerenter', () => dim(true));
    item.addEventListener('pointerleave', () => dim(false));
  }
}

for (const box of all('.typed')) {
  if (!navigator.clipboard) break; // where pages from the disk have none, the text can be marked
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'copy';
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(box.firstElementChild.textContent);
    button.textContent = 'copied';
    setTimeout(() => { button.textContent = 'copy'; }, 1500);
  });
  box.append(button);
}

window.addEventListener('beforeprint', () => all('details').forEach(part => { part.open = true; }));

// A map of features: the point nearest to the pointer, or the next one by the arrow keys, shows its image.
for (const map of all('.embedding')) {
  const { maps, classes, points, across } = JSON.parse(all('script', map)[0].textContent);
  const svg = all('.field > svg', map)[0], marks = all('.field .point', map), ring = all('.chosen', map)[0];
  const tile = all('.tile', map)[0], words = all('.shown p', map)[0], alone = new Set();
  tile.style.backgroundImage = `url(${tile.dataset.atlas})`;
  tile.style.backgroundSize = `${across * 128}px auto`;
  let name = Object.keys(maps)[0], current = 0, kept = false;
  const at = i => [20 + 560 * maps[name][i][0], 580 - 560 * maps[name][i][1]];
  const visible = i => !alone.size || alone.has(points[i][1]);
  const show = i => {
    current = i;
    const [image, truth, taken, sure] = points[i], [x, y] = at(i);
    ring.setAttribute('cx', x);
    ring.setAttribute('cy', y);
    tile.style.backgroundPosition = `${-128 * (i % across)}px ${-128 * Math.floor(i / across)}px`;
    const verdict = truth === taken ? classes[truth] : `${classes[truth]}, taken for ${classes[taken]}`;
    words.replaceChildren(...[verdict, `${(100 * sure).toFixed(0)} % sure`, image].map(line => {
      const span = document.createElement('span');
      span.textContent = line;
      return span;
    }));
  };
  const nearest = event => {
    const box = svg.getBoundingClientRect(), scale = 600 / box.width;
    const [x, y] = [scale * (event.clientX - box.left), scale * (event.clientY - box.top)];
    let best = -1, least = 18 ** 2;
    points.forEach((_, i) => {
      const [px, py] = at(i), distance = (px - x) ** 2 + (py - y) ** 2;
      if (visible(i) && distance < least) [best, least] = [i, distance];
    });
    return best;
  };
  svg.addEventListener('pointermove', event => {
    const i = kept ? -1 : nearest(event);
    if (i >= 0) show(i);
  });
  svg.addEventListener('click', event => {
    const i = nearest(event);
    kept = i >= 0 && !(kept && i === current);
    if (i >= 0) show(i);
  });
  svg.addEventListener('keydown', event => {
    const [axis, sign] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 1], ArrowDown: [1, -1] }[event.key] ?? [];
    if (axis === undefined) return;
    event.preventDefault();
    const order = points.map((_, i) => i).filter(visible).sort((a, b) => maps[name][a][axis] - maps[name][b][axis] || a - b);
    const next = order[order.indexOf(current) + sign];
    if (next !== undefined) show(next);
  });
  for (const button of all('[data-map]', map)) {
    button.addEventListener('click', () => {
      name = button.dataset.map;
      all('[data-map]', map).forEach(b => b.setAttribute('aria-pressed', b === button));
      marks.forEach((m, i) => m.setAttribute('transform', `translate(${at(i)[0].toFixed(1)} ${at(i)[1].toFixed(1)})`));
      show(current);
    });
  }
  for (const button of all('[data-class]', map)) {
    button.addEventListener('click', () => {
      const number = Number(button.dataset.class);
      if (!alone.delete(number)) alone.add(number);
      button.setAttribute('aria-pressed', alone.has(number));
      marks.forEach((m, i) => m.classList.toggle('dimmed', !visible(i)));
    });
  }
  show(0);
}
