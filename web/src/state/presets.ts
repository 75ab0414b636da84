/** Settings that are kept under a name, and those that a conversation begins with. They stay in this browser. */

import type { Signal } from "@preact/signals";
import type { Settings } from "../conversation/message";
import { keptPresets, keptStandard } from "../storage/preferences";
import { readSettings } from "../transfer/json";

export const LONGEST_NAME = 60;

function read(kept: Signal<string>): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(kept.value);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

/** The presets by name, in the order in which they were saved. */
export function presets(): Map<string, Settings> {
  return new Map(Object.entries(read(keptPresets)).map(([name, settings]) => [name, readSettings(settings)]));
}

export function savePreset(name: string, settings: Settings): void {
  keptPresets.value = JSON.stringify({ ...read(keptPresets), [name.trim().slice(0, LONGEST_NAME)]: withoutModel(settings) });
}

export function deletePreset(name: string): void {
  const { [name]: _, ...others } = read(keptPresets);
  keptPresets.value = JSON.stringify(others);
}

/** The preset that says what these settings say, if any. */
export function presetOf(settings: Settings): string | null {
  const said = canonical(settings);
  return said === "[]" ? null : ([...presets()].find(([, preset]) => canonical(preset) === said)?.[0] ?? null);
}

/** What a conversation begins with. */
export function standardSettings(): Settings {
  return readSettings(read(keptStandard));
}

export function setStandard(settings: Settings): void {
  keptStandard.value = JSON.stringify(withoutModel(settings));
}

/** Which model answers is a choice of its own, beside what the settings are. */
function withoutModel({ model: _, ...settings }: Settings): Settings {
  return settings;
}

function canonical(settings: Settings): string {
  return JSON.stringify(Object.entries(withoutModel(settings)).sort(([a], [b]) => (a < b ? -1 : 1)));
}
