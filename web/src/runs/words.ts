/** Figures as a person says them. */

import { named, t } from "../messages/language";
import { fixed, significant } from "../messages/numbers";
import type { State } from "./data";

/** 'Pretrain, step 812 of 1,600': where the run stands. */
export function headline(state: State): string {
  const { kind, stage, step } = state;
  const steps = state.steps ? whole(state.steps) : null;
  if (kind === "done") {
    return t.runs.done;
  }
  if (kind === "empty" || !stage) {
    return kind === "running" ? t.runs.running : t.runs.nothingBegun;
  }
  if (kind === "stopped") {
    return step ? t.runs.stoppedAt(stage, whole(step), steps) : t.runs.stoppedBefore(stage);
  }
  const { preparing, tokenizer, evaluating } = t.runs;
  const withoutSteps = { data: preparing, tokenizer, evaluate: evaluating }[stage];
  return withoutSteps ?? (step ? t.runs.at(stage, whole(step), steps) : t.runs.begins(stage));
}

/** What is known of time and money, in parts. */
export function outlook(state: State): string[] {
  const { kind, stage, seconds, seconds_left: left, price_per_hour: price, now, last_at } = state;
  const said: string[] = [];
  if (kind === "running" && left !== null && stage) {
    said.push(t.runs.ends(stage, clock(now + left), duration(left)));
  }
  const following = Object.keys(state.is_done).filter((name) => !state.is_done[name] && name !== stage);
  if (kind === "running" && following.length > 0) {
    said.push(t.runs.then(t.format.list(following)));
  }
  if (kind === "stopped" && last_at) {
    said.push(t.runs.ago(duration(now - last_at)));
  }
  const upToNow = kind === "done" ? t.runs.inAll : t.runs.soFar;
  if (seconds > 0) {
    said.push(upToNow(duration(seconds)));
  }
  if (price > 0) {
    const spent = money((seconds / 3600) * price);
    const planned = left === null || !stage ? "" : t.runs.planned(money(((seconds + left) / 3600) * price), stage);
    said.push(kind === "done" ? spent : `${upToNow(spent)}${planned}`);
  }
  return said;
}

/** What needs a look. */
export function alarm(kind: string, { alarms, alarm_figures }: State): string {
  const say = t.runs.alarms;
  const figure = (name: string) => alarm_figures[kind]![name] ?? 0;
  switch (kind) {
    case "loss":
      return figure("now") || figure("usual") ? say.loss(fixed(figure("now"), 3), fixed(figure("usual"), 3)) : say.notFinite;
    case "plateau":
      return say.plateau(whole(figure("steps")));
    case "slow":
      return say.slow(t.format.percent(fixed(100 * figure("share"))));
    case "stalled":
      return say.stalled(duration(60 * figure("minutes")), t.format.seconds(fixed(figure("seconds"), 1)));
    case "disk":
      return say.disk(significant(figure("gigabytes"), 3));
    default:
      return alarms[kind]!;
  }
}

/** Why a run stopped; what the program itself said stays as it was. */
export function reason({ reason: words, reason_kind: kind }: State): string {
  return kind === null ? (words ?? "") : named(t.runs.reasons, kind);
}

/** The share of the stage that is done, 0 to 1. */
export function progress(state: State): number | null {
  return state.kind === "done" ? 1 : state.steps ? state.step / state.steps : null;
}

/** A field of the records, as a column or a row is headed. */
export function nameOf(field: string): string {
  return named(t.runs.fields, field);
}

export function whole(value: number): string {
  return fixed(value);
}

/** Three digits or so, large numbers in thousands and millions. */
export function short(value: number): string {
  const size = Math.abs(value);
  for (const [unit, name] of [[1e12, " T"], [1e9, " B"], [1e6, " M"], [1e4, " K"]] as const) {
    if (size >= unit) {
      return `${significant(value / (name === " K" ? 1e3 : unit), 3)}${name}`;
    }
  }
  if (size === 0 || size >= 100) {
    return whole(value);
  }
  return size >= 0.001 ? significant(value, 4) : value.toExponential(1);
}

export function share(value: number): string {
  return t.format.percent(fixed(100 * value, value >= 0.995 || value === 0 ? 0 : 1));
}

export function money(dollars: number): string {
  return `$${fixed(dollars, dollars < 10 ? 2 : 0)}`;
}

export function duration(seconds: number): string {
  if (seconds < 90) {
    return t.format.seconds(fixed(Math.max(0, Math.round(seconds))));
  }
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) {
    return t.format.minutes(fixed(minutes));
  }
  if (minutes < 48 * 60) {
    return t.format.hours(fixed(Math.floor(minutes / 60)), minutes % 60 ? fixed(minutes % 60) : null);
  }
  return t.format.days(fixed(Math.floor(minutes / 1440)), fixed(Math.round((minutes % 1440) / 60)));
}

/** A time of day; with the day where that is another one. */
export function clock(epochSeconds: number): string {
  const milliseconds = 1000 * epochSeconds;
  const time = t.format.time(milliseconds);
  const isToday = new Date(milliseconds).toDateString() === new Date().toDateString();
  return isToday ? time : t.format.dayAndTime(t.format.day(milliseconds), time);
}
