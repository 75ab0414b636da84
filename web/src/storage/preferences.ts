/** Small things the page remembers, in localStorage: as signals, which work also where nothing can be stored. */

import { effect, signal, type Signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

function remembered<T extends string>(name: string, fallback: T, store: () => Storage = () => localStorage): Signal<T> {
  const key = `chatsmith-${name}`;
  let stored: string | null = null;
  try {
    stored = store().getItem(key);
  } catch {
    // Storage may be forbidden: the page then begins anew each time.
  }
  const value = signal((stored as T | null) ?? fallback);
  effect(() => {
    try {
      if (value.value === fallback) {
        store().removeItem(key);
      } else {
        store().setItem(key, value.value);
      }
    } catch {
      // As above.
    }
  });
  return value;
}

export const theme = remembered<Theme>("theme", "system");
/** Whether the list of conversations stands beside the conversation; on a narrow screen it never does. */
export const sidebar = remembered<"open" | "closed">("sidebar", "open");
/** The key that the server asks for, for as long as this tab lives … */
export const sessionKey = remembered<string>("key", "", () => sessionStorage);
/** … or until it is forgotten. */
export const keptKey = remembered<string>("key", "");
/** The model that the last conversation was held with. */
export const lastModel = remembered<string>("model", "");
/** The language of the page, by its tag; "" is what the browser asks for. */
export const chosenLanguage = remembered<string>("language", "");
/** Presets of settings, and the settings of new conversations, as JSON. */
export const keptPresets = remembered<string>("presets", "{}");
export const keptStandard = remembered<string>("settings", "{}");

/** Keep the page's look in step with the chosen theme. */
export function followTheme(): void {
  effect(() => {
    if (theme.value === "system") {
      delete document.documentElement.dataset.theme;
    } else {
      document.documentElement.dataset.theme = theme.value;
    }
  });
}
