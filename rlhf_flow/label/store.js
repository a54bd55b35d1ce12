"use strict";
// Key-value storage: localStorage, or the memory of this page if localStorage is refused or full.

const store = (() => {
  const memory = new Map();
  let area = null;
  try {
    localStorage.setItem("rlhf-flow.try", "");
    localStorage.removeItem("rlhf-flow.try");
    area = localStorage;
  } catch {} // refused (then even naming it throws) or full
  return {
    lasts: area !== null,
    get: (key) => (memory.has(key) ? memory.get(key) : (area?.getItem(key) ?? null)),
    set(key, value) {
      try {
        if (!area) throw new Error();
        area.setItem(key, value);
        memory.delete(key);
      } catch { // full by now
        memory.set(key, value);
      }
    },
    remove(key) {
      memory.delete(key);
      area?.removeItem(key);
    },
    keys: (prefix) => [...new Set([...Object.keys(area ?? {}), ...memory.keys()])].filter((key) => key.startsWith(prefix)).sort(),
    unsent: (prefix) => [...memory.keys()].some((key) => key.startsWith(prefix)), // whether closing this page would lose anything
  };
})();
