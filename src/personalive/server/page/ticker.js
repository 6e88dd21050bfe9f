/** A clock in a worker: unlike a page's own timers it goes on at full rate while the tab is hidden. */

let timer = null;

self.onmessage = ({ data: interval }) => {
  clearInterval(timer);
  timer = interval > 0 ? setInterval(() => self.postMessage(null), interval) : null;
};
