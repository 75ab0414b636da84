/** Which language the page speaks: as the browser asks, unless a person chose one. */

import { effect, signal } from "@preact/signals";
import { chosenLanguage } from "../storage/preferences";
import type { Messages } from "./messages";

/** Every language there is, by its BCP 47 tag: its name in itself, and its messages, which are loaded when they are needed. */
export const LANGUAGES = {
  en: { name: "English", load: async () => (await import("./en")).en as Messages },
  ja: { name: "日本語", load: async () => (await import("./ja")).ja },
};

export type Language = keyof typeof LANGUAGES;

/** The messages of the language that is shown. They are there once `loadLanguage` is through. */
export let t: Messages;
/** The language that is shown: what is drawn under it is drawn anew when it changes. */
export const language = signal<Language>("en");

/** What a key that may be none of ours is called: its message, or else itself. */
export function named(messages: Readonly<Record<string, string>>, key: string): string {
  return Object.hasOwn(messages, key) ? messages[key]! : key;
}

/** The first of the languages that the browser asks for that there is. */
export function askedLanguage(asked: readonly string[]): Language {
  const known = asked.map((tag) => tag.toLowerCase().split("-")[0]!).find((tag) => Object.hasOwn(LANGUAGES, tag));
  return (known as Language | undefined) ?? "en";
}

/** Load the messages of a language and show them from now on. One that cannot be loaded leaves what was shown. */
export async function loadLanguage(wanted: Language): Promise<void> {
  t = await LANGUAGES[wanted].load();
  language.value = wanted;
}

/** Speak the language that was chosen or asked for, now and whenever another is chosen. Resolves when it is there. */
export async function followLanguage(): Promise<void> {
  const wanted = () =>
    Object.hasOwn(LANGUAGES, chosenLanguage.value) ? (chosenLanguage.value as Language) : askedLanguage(navigator.languages);
  await loadLanguage(wanted()).catch(() => loadLanguage("en"));
  effect(() => {
    document.documentElement.lang = language.value;
  });
  effect(() => {
    const next = wanted();
    if (next !== language.peek()) {
      void loadLanguage(next).catch(() => undefined);
    }
  });
}
