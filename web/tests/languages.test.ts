/** The page speaks through its messages only, and every language says all of it. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseSync } from "vite";
import { afterEach, describe, expect, it } from "vitest";
import { askedLanguage, language, LANGUAGES, loadLanguage, t, type Language } from "../src/messages/language";
import type { State } from "../src/runs/data";
import { alarm, duration, reason, share, short } from "../src/runs/words";

const SOURCES = join(import.meta.dirname, "../src");
const SPOKEN = ["components", "runs", "state", "transfer", "api", "conversation", "markdown", "storage"];

/** Properties and attributes that a person reads, or has read aloud. */
const READ = new Set([
  "aria-label", "aria-valuetext", "aria-description", "aria-roledescription", "title", "placeholder", "alt", "label", "help",
  "hint", "text", "message", "does", "says", "words", "reason",
]);
/** What stays as it is in every language: the name of the program, what is typed, what stands on keys. */
const THE_SAME = /^(chatsmith|Shift|Enter|Esc|Ctrl|GB)$|^(chatsmith|--model) |^\[?\{"/;
/** Of another kind than what a person reads: classes, styles, addresses, and what is said in the console. */
const NOT_READ = new Set(["class", "d", "style", "viewBox", "points", "href", "transform", "dir"]);

interface Node {
  type: string;
  start: number;
  [name: string]: unknown;
}

const isNode = (value: unknown): value is Node => typeof value === "object" && value !== null && "type" in value;

/** The literal texts of a source that a person would see, with the lines on which they stand. */
function spokenIn(source: string, file: string): string[] {
  const found: string[] = [];
  const report = (node: Node, text: string) => {
    const said = text.trim();
    if (/\p{L}{2}/u.test(said) && !THE_SAME.test(said)) {
      found.push(`${file}:${source.slice(0, node.start).split("\n").length}: ${said}`);
    }
  };
  /** `isRead`: whether this stands on the page, or is the value of something that is read. */
  const visit = (node: Node, isRead: boolean): void => {
    if (node.type === "ImportDeclaration" || node.type === "ImportExpression" || node.type.startsWith("TS")) {
      return;
    }
    if (node.type === "CallExpression" && /^(console\.\w+|document\.\w+|matchMedia|.*\.(querySelector(All)?|closest|matches|setAttribute))$/.test(textOf(node.callee as Node))) {
      return;
    }
    if (node.type === "ThrowStatement" && source.slice(node.start).startsWith("throw new Error(")) {
      return; // a mistake of our own, for the console
    }
    if (node.type === "JSXAttribute") {
      const name = textOf(node.name as Node);
      const value = isNode(node.value) && node.value.type === "JSXExpressionContainer" ? node.value.expression : node.value;
      if (!NOT_READ.has(name) && isNode(value)) {
        visit(value, READ.has(name));
      }
      return;
    }
    if (node.type === "Property") {
      visit(node.value as Node, READ.has(textOf(node.key as Node).replaceAll('"', "")));
      return;
    }
    if (node.type === "JSXText") {
      report(node, node.value as string);
    } else if (node.type === "JSXExpressionContainer") {
      visit(node.expression as Node, true); // among the children of an element
      return;
    } else if (node.type === "Literal" && typeof node.value === "string") {
      (isRead && !isName(node.value) ? report : reportSentence)(node, node.value);
    } else if (node.type === "TemplateLiteral") {
      const text = (node.quasis as Node[]).map(({ value }) => (value as { cooked: string }).cooked).join(" … ");
      (isRead ? report : reportSentence)(node, text);
    }
    for (const child of Object.values(node)) {
      for (const each of Array.isArray(child) ? (child as unknown[]) : [child]) {
        if (isNode(each)) {
          visit(each, isRead && node.type !== "CallExpression" && node.type !== "BinaryExpression" && node.type !== "MemberExpression");
        }
      }
    }
  };
  const textOf = (node: Node) => source.slice(node.start, node.end as number);
  /** Anywhere else: two words that follow each other, the first with a capital, or a sentence with its end. */
  const reportSentence = (node: Node, text: string) => {
    if (/^\s*\p{Lu}\p{Ll}*,? \p{Ll}/u.test(text) || /\p{Ll} \p{Ll}+[.?!]\s*$/u.test(text)) {
      report(node, text);
    }
  };
  const { program, errors } = parseSync(file, source, { sourceType: "module" });
  expect(errors).toEqual([]);
  visit(program as unknown as Node, false);
  return found;
}

/** A name in the code, which is no word: `is-set`, `aria-label`, `svg`. */
function isName(text: string): boolean {
  return /^[a-z]+(-[a-z]+)*$/.test(text) && !/^[a-z]+$/.test(text);
}

describe("what the page says", () => {
  it("stands in the messages, none of it in the components", () => {
    const files = SPOKEN.flatMap((folder) => readdirSync(join(SOURCES, folder)).map((name) => join(folder, name)));
    expect(files.flatMap((name) => spokenIn(readFileSync(join(SOURCES, name), "utf8"), name))).toEqual([]);
  });

  it("is found where it is left in a component", () => {
    const found = (source: string) => spokenIn(source, "a.tsx").length;
    expect(found("const a = <p>Hello there</p>;")).toBe(1);
    expect(found("const a = <p>{isLong ? `About ${n} tokens` : null}</p>;")).toBe(1);
    expect(found('const a = <button aria-label="Send" class="is-primary" />;')).toBe(1);
    expect(found('const a = <button aria-label={isOn ? "Hide" : "Show"} />;')).toBe(2);
    expect(found('const items = [{ icon: "copy", label: "Copy reply" }];')).toBe(1);
    expect(found('view.tell({ text: "Message deleted." });')).toBe(1);
    expect(found('throw new ImportError("The file holds nothing.");')).toBe(1);
    expect(found('const a = <p class="Some words">{t.page.skip}</p>;')).toBe(0);
  });
});

/** Every message by its path. */
function flat(messages: object, path = ""): Map<string, unknown> {
  const entries = Object.entries(messages).flatMap(([key, value]): [string, unknown][] => {
    const here = path === "" ? key : `${path}.${key}`;
    return typeof value === "object" && value !== null && !Array.isArray(value) ? [...flat(value as object, here)] : [[here, value]];
  });
  return new Map(entries);
}

describe.each(Object.keys(LANGUAGES) as Language[])("the language %s", (tag) => {
  it("has the keys of English, each of the same kind", async () => {
    const [english, own] = [flat(await LANGUAGES.en.load()), flat(await LANGUAGES[tag].load())];
    expect([...own.keys()]).toEqual(expect.arrayContaining([...english.keys()]));
    expect(own.size).toBe(english.size);
    for (const [key, message] of english) {
      expect(typeof own.get(key), key).toBe(typeof message);
      if (typeof message === "string" && message !== "") {
        expect(own.get(key), key).not.toBe("");
      }
    }
  });
});

describe("Japanese", () => {
  afterEach(() => loadLanguage("en"));

  it("is not English that was left", async () => {
    const [english, japanese] = [flat(await LANGUAGES.en.load()), flat(await LANGUAGES.ja.load())];
    const names = /^(Top-p|Top-k|Min-p|CORE|MFU|pass@1|bits per byte)$/;
    const left = [...english].filter(([key, message]) => typeof message === "string" && message !== "" && japanese.get(key) === message);
    expect(left.map(([, message]) => message).filter((message) => !names.test(message as string))).toEqual([]);
  });

  it("ends its sentences as Japanese does", async () => {
    const texts = [...flat(await LANGUAGES.ja.load()).values()].filter((message) => typeof message === "string");
    expect(texts.filter((text) => /[.?!]$|。$/.test(text) && !/(ます|です|ません|でした|ました|ください|ましょう|ですか|ますか|でしょうか)。$/.test(text))).toEqual([]);
  });

  it("writes numbers, shares and durations in its own way", async () => {
    await loadLanguage("ja");
    expect(language.value).toBe("ja");
    expect([share(0.4), duration(30), duration(11_400), short(1234)]).toEqual(["40.0%", "30秒", "3時間10分", "1,234"]);
    expect([t.format.large(6_100_000), t.format.characters(20_000)]).toEqual(["610万", "約2.0万文字"]);
    expect(t.format.month(new Date(2026, 10, 30).getTime())).toBe("2026年11月");
  });
});

describe("what a run needs a look for", () => {
  afterEach(() => loadLanguage("en"));

  const figures = { loss: {}, plateau: { steps: 1200 }, slow: { share: 0.6 }, stalled: { minutes: 7, seconds: 1 }, disk: { gigabytes: 1.25 } };
  const state = { alarms: {}, alarm_figures: figures, reason: "in English", reason_kind: "asked" } as unknown as State;

  it("is said in every language, with its figures", async () => {
    const said = () => Object.keys(figures).map((kind) => alarm(kind, state));
    expect(said().slice(1)).toEqual([
      "Plateau: the loss has not fallen for 1,200 steps.",
      "Throughput has fallen to 60 % of what it was.",
      "No step for 7 min; one takes 1.0 s.",
      "The disk is filling: 1.25 GB are free.",
    ]);
    await loadLanguage("ja");
    expect(said()[2]).toBe("スループットが以前の 60% に落ちています。");
    expect(said().filter((words) => /[a-z]{3}/.test(words))).toEqual([]);
    expect(reason(state)).not.toMatch(/[a-z]{3}/);
    expect(reason({ ...state, reason_kind: null })).toBe("in English");
  });
});

describe("the language of the page", () => {
  it.each([
    [["ja-JP", "en"], "ja"],
    [["de-DE", "ja", "en"], "ja"],
    [["de"], "en"],
    [["constructor", "en-GB"], "en"],
    [[], "en"],
  ] as const)("is the first of %j that there is: %s", (asked, expected) => {
    expect(askedLanguage(asked)).toBe(expected);
  });
});
