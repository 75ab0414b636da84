/** Figures as a person says them. */

import type { State } from "./data";

const WITHOUT_STEPS: Readonly<Record<string, string>> = {
  data: "Preparing the data",
  tokenizer: "Training the tokenizer",
  evaluate: "Evaluating",
};

/** 'Pretrain, step 812 of 1,600': where the run stands. */
export function headline(state: State): string {
  const { kind, stage, step, steps } = state;
  const of = steps ? ` of ${whole(steps)}` : "";
  if (kind === "done") {
    return "Done";
  }
  if (kind === "empty" || !stage) {
    return kind === "running" ? "Running" : "Nothing has begun";
  }
  if (kind === "stopped") {
    return step ? `Stopped at step ${whole(step)}${of} of ${stage}`.replace(/( of [\d,]+) of /, "$1, ") : `Stopped before ${stage}`;
  }
  if (WITHOUT_STEPS[stage]) {
    return WITHOUT_STEPS[stage];
  }
  return step ? `${capital(stage)}, step ${whole(step)}${of}` : `${capital(stage)} begins`;
}

/** What is known of time and money, in parts. */
export function outlook(state: State): string[] {
  const { kind, stage, seconds, seconds_left: left, price_per_hour: price, now, last_at } = state;
  const said: string[] = [];
  if (kind === "running" && left !== null) {
    said.push(`${stage} ends about ${clock(now + left)}, in ${duration(left)}`);
  }
  const following = Object.keys(state.is_done).filter((name) => !state.is_done[name] && name !== stage);
  if (kind === "running" && following.length > 0) {
    said.push(`then ${following.join(", ")}`);
  }
  if (kind === "stopped" && last_at) {
    said.push(`${duration(now - last_at)} ago`);
  }
  if (seconds > 0) {
    said.push(kind === "done" ? `${duration(seconds)} in all` : `${duration(seconds)} so far`);
  }
  if (price > 0) {
    const planned = left === null ? "" : ` of about ${money(((seconds + left) / 3600) * price)} to the end of ${stage}`;
    said.push(`${money((seconds / 3600) * price)}${kind === "done" ? "" : " so far"}${planned}`);
  }
  return said;
}

/** The share of the stage that is done, 0 to 1. */
export function progress(state: State): number | null {
  return state.kind === "done" ? 1 : state.steps ? state.step / state.steps : null;
}

export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function whole(value: number): string {
  return WHOLE.format(value);
}

/** Three digits or so, large numbers in thousands and millions. */
export function short(value: number): string {
  const size = Math.abs(value);
  for (const [unit, name] of [[1e12, " T"], [1e9, " B"], [1e6, " M"], [1e4, " K"]] as const) {
    if (size >= unit) {
      return `${Number((value / (name === " K" ? 1e3 : unit)).toPrecision(3))}${name}`;
    }
  }
  if (size >= 1000) {
    return whole(value);
  }
  return size === 0 ? "0" : size >= 100 ? value.toFixed(0) : size >= 0.001 ? String(Number(value.toPrecision(4))) : value.toExponential(1);
}

export function share(value: number): string {
  return `${(100 * value).toFixed(value >= 0.995 || value === 0 ? 0 : 1)} %`;
}

export function money(dollars: number): string {
  return `$${dollars < 10 ? dollars.toFixed(2) : whole(dollars)}`;
}

export function duration(seconds: number): string {
  if (seconds < 90) {
    return `${Math.max(0, Math.round(seconds))} s`;
  }
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) {
    return `${minutes} min`;
  }
  if (minutes < 48 * 60) {
    return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  }
  return `${Math.floor(minutes / 1440)} d ${Math.round((minutes % 1440) / 60)} h`;
}

/** A time of day; with the day where that is another one. */
export function clock(epochSeconds: number): string {
  const date = new Date(1000 * epochSeconds);
  const time = date.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? time : `${date.toLocaleDateString("en", { weekday: "short", day: "numeric", month: "short" })}, ${time}`;
}
