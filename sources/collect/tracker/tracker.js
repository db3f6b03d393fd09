// tracker.js sends page views, clicks and impressions of a page to Millrace's collector. How to use it: tracker.go.
(() => {
  'use strict';

  const script = document.currentScript;
  const option = script.dataset;
  if (window.millrace) return; // the script is there twice

  const endpoint = option.url || new URL('v1/events', script.src).href;
  const batchEvents = 20, batchBytes = 48e3; // browsers let a page that is gone send 64 KB
  const keepEvents = 200, keepBytes = 256e3; // of what could not be sent, in local storage
  const sendAfter = 2000, firstPause = 2000, longPause = 60e3; // milliseconds
  const sessionIdle = 30 * 60e3;
  const seenShare = 0.5, seenFor = 1000; // half of it for a second is an impression

  const signal = navigator.globalPrivacyControl || navigator.doNotTrack === '1' || window.doNotTrack === '1';
  const forbidden = signal && option.dnt !== 'ignore';

  // Storage may be full, or forbidden; then all lasts as long as the page.
  const memory = {};
  const store = (name, value) => {
    memory[name] = value;
    try { localStorage.setItem('millrace.' + name, JSON.stringify(value)); } catch { /* see above */ }
  };
  const load = name => {
    try { return JSON.parse(localStorage.getItem('millrace.' + name)) ?? memory[name]; } catch { return memory[name]; }
  };
  const drop = name => {
    delete memory[name];
    try { localStorage.removeItem('millrace.' + name); } catch { /* see above */ }
  };

  // adopt takes over what this page and others could not send. A page that is open elsewhere sends its own again; the ids are
  // the same.
  const adopt = () => {
    try {
      return Object.keys(localStorage).filter(k => k.startsWith('millrace.queue.')).flatMap(k => {
        const name = k.slice(9), events = load(name);
        drop(name);
        return events;
      });
    } catch { return []; }
  };

  // randomUUID is there on https pages only.
  const newID = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');

  let consent = option.consent !== 'wait' || load('consent') === true;
  if (load('consent') === false) consent = false;
  const allowed = () => consent && !forbidden;

  const ids = () => {
    const now = Date.now();
    const v = load('visitor') || { anonymous: newID() };
    if (!v.session || now - v.seen > sessionIdle) v.session = newID();
    v.seen = now;
    store('visitor', v);
    return v;
  };

  const kept = 'queue.' + newID(); // each page has its own, or one would drop another's
  let queue = [];
  let sending = 0; // how many of the queue's first events are under way
  let timer = 0, pause = 0; // pause: the collector did not take events the last time
  let round = 0; // grows when consent is withdrawn
  let user, begun;

  const size = text => new Blob([text]).size;

  // track puts one event into the queue.
  const track = (type, properties) => {
    if (!allowed()) return;
    const v = ids();
    queue.push(JSON.stringify({
      event_type: type, event_id: newID(), event_time: new Date().toISOString(), anonymous_id: v.anonymous, session_id: v.session,
      user_id: user, url: location.href, referrer: document.referrer || undefined, ...properties,
    }));
    if (queue.length > keepEvents + sending) queue.splice(sending, 1); // the oldest that is not under way
    if (queue.length - sending >= batchEvents && !pause) flush(); else schedule(pause || sendAfter);
  };

  const schedule = ms => { timer ||= setTimeout(() => { timer = 0; flush(); }, ms); };

  // next is as many of the events from first on as go into one request.
  const next = first => {
    let n = 0, bytes = 2;
    while (first + n < queue.length && n < batchEvents && (bytes += size(queue[first + n]) + 1) <= batchBytes) n++;
    if (!n && first < queue.length) n = 1; // alone
    return queue.slice(first, first + n);
  };

  const address = () => {
    const u = new URL(endpoint);
    if (option.key) u.searchParams.set('key', option.key);
    u.searchParams.set('sent_at', Date.now()); // the collector corrects the clock by it
    return u;
  };

  // flush sends the queue, batch by batch, one at a time. text/plain needs no preflight.
  const flush = async () => {
    clearTimeout(timer);
    timer = 0;
    if (sending || !queue.length || !allowed()) return;
    const batch = next(0), mine = round;
    sending = batch.length;
    let left = batch, wait = 0;
    try {
      const answer = await fetch(address(), {
        method: 'POST', body: '[' + batch + ']', keepalive: true, credentials: 'omit', headers: { 'Content-Type': 'text/plain' },
      });
      if (answer.ok || (answer.status < 500 && answer.status !== 429 && answer.status !== 408)) {
        left = []; // taken, or refused for good
      } else {
        wait = 1000 * answer.headers.get('Retry-After');
        const retry = (await answer.json()).retry;
        if (retry) left = retry.map(i => batch[i]);
      }
    } catch { /* no answer: send all again */ }
    if (mine !== round) return; // these events are forgotten
    queue.splice(0, sending, ...left);
    sending = 0;
    if (left.length) {
      pause = Math.max(wait, Math.min(pause * 2 || firstPause, longPause)) * (0.75 + Math.random() / 2);
      keep();
      schedule(pause);
    } else {
      pause = 0;
      drop(kept);
      if (queue.length) schedule(queue.length < batchEvents ? sendAfter : 0);
    }
  };

  // keep stores the newest events that fit, for the next page. What is under way is trusted to arrive unless the last
  // request did not: twice, with one id, is better than never.
  const keep = () => {
    const events = [];
    for (let i = queue.length - 1, bytes = 0; i >= (pause ? 0 : sending) && events.length < keepEvents; i--) {
      if ((bytes += size(queue[i])) > keepBytes) break;
      events.unshift(queue[i]);
    }
    if (events.length) store(kept, events); else drop(kept);
  };

  // leave hands what is left to the browser, which sends it when the page is gone and tells nobody whether it could. So what
  // the collector did not take just now is kept, as is what the browser does not take.
  const leave = () => {
    if (!allowed()) return;
    for (let batch; !pause && (batch = next(sending)).length;) {
      if (!navigator.sendBeacon(address(), '[' + batch + ']')) break;
      queue.splice(sending, batch.length);
    }
    keep();
  };

  // What an element says with data-millrace-NAME, or the next one around it that does.
  const said = (element, name) => element.closest(`[data-millrace-${name}]`)?.getAttribute('data-millrace-' + name) || undefined;
  const about = (element, item) => ({
    item_id: item || said(element, 'item'), recommendation_id: said(element, 'recommendation'), query: said(element, 'query'),
  });

  const onClick = e => {
    const element = e.target.closest?.('[data-millrace-click]');
    if (element) track('click', about(element, element.getAttribute('data-millrace-click')));
  };

  const timers = new Map();
  const observer = window.IntersectionObserver && new IntersectionObserver(entries => {
    for (const { target, isIntersecting, intersectionRatio, intersectionRect, rootBounds } of entries) {
      // Half of the element, or half of the window where the element is larger than that.
      const seen = isIntersecting && (intersectionRatio >= seenShare || (rootBounds && intersectionRect.height >= rootBounds.height / 2));
      if (!seen) {
        clearTimeout(timers.get(target));
        timers.delete(target);
      } else if (!timers.has(target)) {
        timers.set(target, setTimeout(() => {
          timers.delete(target);
          observer.unobserve(target);
          if (document.visibilityState === 'hidden' || !allowed()) {
            observer.observe(target); // and tells at once how much of it is to be seen
            return;
          }
          track('impression', about(target, target.getAttribute('data-millrace-impression')));
        }, seenFor));
      }
    }
  }, { threshold: Array.from({ length: 26 }, (_, i) => i / 50) });

  const observe = root => {
    if (!observer) return;
    const selector = '[data-millrace-impression]';
    if (root.matches?.(selector)) observer.observe(root);
    root.querySelectorAll?.(selector).forEach(e => observer.observe(e));
  };

  let viewed;
  const view = properties => {
    if (allowed()) viewed = location.href;
    track('page_view', { title: document.title, ...properties });
  };
  const moved = () => { if (location.href !== viewed) view(); };

  const begin = () => {
    if (!allowed()) return;
    if (!begun) queue.push(...adopt());
    begun = true;
    if (option.pageViews !== 'off' && viewed !== location.href) view();
    if (queue.length) schedule(sendAfter);
  };

  const start = () => {
    observe(document.documentElement);
    new MutationObserver(changes => changes.forEach(c => c.addedNodes.forEach(observe))).observe(document, { childList: true, subtree: true });
    addEventListener('click', onClick, true);
    addEventListener('auxclick', e => e.button === 1 && onClick(e), true);
    addEventListener('pagehide', leave);
    document.addEventListener('visibilitychange', () => document.visibilityState === 'hidden' && leave());
    if (option.pageViews !== 'off') {
      const push = history.pushState;
      history.pushState = function (...args) {
        push.apply(this, args);
        moved();
      };
      addEventListener('popstate', moved);
    }
    begin();
  };

  window.millrace = {
    track, flush,
    page: view,
    identify: id => { user = id == null ? undefined : String(id); },
    consent: yes => {
      consent = !!yes;
      if (consent) {
        if (!forbidden) store('consent', true);
        begin();
      } else {
        queue = [];
        sending = 0;
        round++;
        adopt();
        drop('visitor');
        store('consent', false);
      }
    },
  };

  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start); else start();
})();
