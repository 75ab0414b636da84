/** Settings that are typed as text: what they mean, and what is wrong with them. */

import { t } from "../messages/language";

/** Bounds of the API. */
const MOST_BIAS = 100;

/** What is added to the scores of tokens, by id: of each line that is an id and a number. */
export function biasesOf(text: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of text.split("\n")) {
    const [, id, value] = /^\s*(\d{1,9})[\s:=,]+([+-]?\d+(?:\.\d*)?)\s*$/.exec(line) ?? [];
    if (id !== undefined && Math.abs(Number(value)) <= MOST_BIAS) {
      found.set(String(Number(id)), Number(value));
    }
  }
  return found;
}

/** Why a text of biases is not one, or null. */
export function wrongInBiases(text: string): string | null {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const wrong = lines.find((line) => biasesOf(line).size === 0);
  return wrong === undefined ? null : t.settings.wrongBias(wrong.trim().slice(0, 40));
}

/** Why a text is not a JSON schema, or null. */
export function wrongInSchema(text: string): string | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? null : t.settings.wrongSchema;
  } catch {
    return t.settings.wrongJson;
  }
}

/** The tools of a text, in OpenAI's form; functions may stand there by themselves. */
export function toolsOf(text: string): object[] {
  const value = JSON.parse(text) as unknown;
  const list = Array.isArray(value) ? (value as object[]) : [value as object];
  return list.map((each) => ("function" in each ? each : { type: "function", function: each }));
}

/** Why a text is not a list of tools, or null. */
export function wrongInTools(text: string): string | null {
  try {
    const named = toolsOf(text).map((tool) => (tool as { function?: { name?: unknown } }).function?.name);
    return named.every((name) => typeof name === "string" && /^[\w-]{1,64}$/.test(name))
      ? null
      : t.settings.wrongTools;
  } catch {
    return t.settings.wrongJson;
  }
}
