"use strict";
// What this browser keeps: in its storage, and in this page alone if the storage is refused or full.

const store = (() => {
  const memory = new Map();
  let area = null;
  try {
    localStorage.setItem("rlhf-flow.try", "");
    localStorage.removeItem("rlhf-flow.try");
    area = localStorage;
  } catch {} // refused, in which case even its name throws; or full
  return {
    lasts: area !== null,
    get: (key) => (memory.has(key) ? memory.get(key) : (area?.getItem(key) ?? null)),
    set(key, value) {
      try {
        if (!area) throw new Error();
        area.setItem(key, value);
        memory.delete(key);
      } catch { // full meanwhile
        memory.set(key, value);
      }
    },
    remove(key) {
      memory.delete(key);
      area?.removeItem(key);
    },
    keys: (prefix) => [...new Set([...Object.keys(area ?? {}), ...memory.keys()])].filter((key) => key.startsWith(prefix)).sort(),
    unsent: (prefix) => [...memory.keys()].some((key) => key.startsWith(prefix)), // what is lost with this page
  };
})();
