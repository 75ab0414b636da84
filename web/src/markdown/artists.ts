/** Loads what draws code and formulas when the first of them is met: most conversations need neither. */

import { signal } from "@preact/signals";
import type { Artists } from "./to-html";

export const artists = signal<Artists>({ highlight: null, formula: null });

const asked = { highlight: false, formula: false };

/** Have `kind` loaded. `artists` changes once it is there; if it cannot be loaded, sources stay as written. */
export function need(kind: keyof Artists): void {
  if (asked[kind]) {
    return;
  }
  asked[kind] = true;
  void (kind === "highlight" ? loadHighlight() : loadFormula()).catch(() => (asked[kind] = false));
}

async function loadHighlight(): Promise<void> {
  const { highlight } = await import("./highlight");
  artists.value = { ...artists.value, highlight };
}

async function loadFormula(): Promise<void> {
  const { formula } = await import("./formula");
  artists.value = { ...artists.value, formula };
}
