// Shows the snapshots of /live. All text goes in as text, never as HTML.
'use strict';

const $ = id => document.getElementById(id);
const count = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

const n = value => [count.format(value), 'n'];

function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let u = 0;
  while (n >= 1024 && u < units.length - 1) { n /= 1024; u++; }
  return `${n < 10 && u > 0 ? n.toFixed(1) : Math.round(n)} ${units[u]}`;
}

function seconds(s) {
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 100) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  return s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
}

// rows fills a table body; a cell is a text or [text, class].
function rows(id, list, cells) {
  $(id).replaceChildren(...list.map(item => {
    const tr = document.createElement('tr');
    for (const cell of cells(item)) {
      const td = document.createElement('td');
      const [text, name] = Array.isArray(cell) ? cell : [cell, ''];
      td.textContent = td.title = text;
      td.className = name;
      tr.append(td);
    }
    return tr;
  }));
}

function chart(rate) {
  const svg = $('chart'), width = 1200, height = 140, steps = 120;
  const peak = Math.max(0, ...rate), top = Math.max(10, peak) * 1.1;
  $('peak').textContent = `peak ${count.format(peak)}`;
  const x = i => width * (steps - rate.length + i) / (steps - 1);
  const y = v => height - 4 - (height - 8) * v / top;
  const line = rate.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(' ');
  const shape = (name, attributes) => {
    const e = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const k in attributes) e.setAttribute(k, attributes[k]);
    return e;
  };
  svg.replaceChildren(
    ...[.25, .5, .75].map(f => shape('line', { class: 'grid', x1: 0, x2: width, y1: y(top * f), y2: y(top * f) })),
    shape('polygon', { class: 'area', points: `${x(0)},${height} ${line} ${x(rate.length - 1)},${height}` }),
    shape('polyline', { class: 'edge', points: line }));
}

function show(s) {
  $('name').textContent = s.name;
  const retrying = s.partitions.filter(p => p.retrying);
  $('state').className = retrying.length ? 'state bad' : 'state';
  $('state').textContent = retrying.length ? `retrying: ${retrying[0].retrying}` : `live · up ${seconds(s.seconds)}`;

  $('rate').textContent = count.format(s.rate.at(-1) ?? 0);
  $('records').textContent = `${count.format(s.records)} since the start`;
  $('lag').textContent = s.lag_records < 0 ? 'unknown' : `${short.format(s.lag_records)} events`;
  $('latency').textContent = s.latency_ms < 0 ? 'nothing new this second' : `log to sinks: ${seconds(s.latency_ms / 1000)}`;
  $('commit').textContent = s.commit_age < 0 ? 'none yet' : `${seconds(s.commit_age)} ago`;
  $('commits').textContent = s.commits ? `${count.format(s.commits)} commits, ${seconds(s.commit_ms / 1000)} each` : (s.waiting ? `oldest event waits ${seconds(s.waiting)}` : '');
  $('rows').textContent = `${count.format(s.file_rows)} rows`;
  $('files-total').textContent = `${count.format(s.file_count)} files, ${bytes(s.file_bytes)}`;
  $('dead').textContent = count.format(s.dead);
  $('dead-tile').className = s.dead ? 'tile bad' : 'tile';
  $('fate').textContent = `${count.format(s.kept)} kept + ${count.format(s.dropped)} dropped + ${count.format(s.dead)} dead = ${count.format(s.kept + s.dropped + s.dead)} read`;
  chart(s.rate);

  rows('partitions', s.partitions, p => [[p.name, 'mono'], n(p.epoch), n(p.delivered), n(p.committed), p.lag < 0 ? ['–', 'n'] : n(p.lag)]);
  rows('files', s.files, f => {
    const cut = f.key.lastIndexOf('/') + 1;
    return [[f.key.slice(0, cut), 'mono'], [f.key.slice(cut), 'mono'], `${f.partition}, ${count.format(f.after + 1)} to ${count.format(f.to)}`, n(f.rows), [bytes(f.bytes), 'n']];
  });
  rows('events', s.events, e => [e.time, e.type, e.user, e.item, e.detail, [`${e.partition} ${e.offset}`, 'mono']]);
  rows('dead-letters', s.dead_letters, d => [[`${d.partition} ${d.offset}`, 'mono'], d.stage, [d.error, 'error'], [d.value, 'mono']]);
  $('no-dead').hidden = s.dead_letters.length > 0;
}

$('try').textContent =
`curl -s ${location.origin}/v1/events -d '{"event_type":"click","event_time":"${new Date().toISOString()}","user_id":"you","item_id":"85123A"}'
curl -s ${location.origin}/v1/events -d '[{"event_type":"click","user_id":"you"}, {"event_type":"click","event_time":"yesterday"}]'`;

const live = new EventSource('live');
live.onmessage = message => show(JSON.parse(message.data));
live.onerror = () => { $('state').className = 'state bad'; $('state').textContent = 'not connected'; };
