/** What can be typed after a slash. */

import { t } from "../messages/language";
import type { Messages } from "../messages/messages";
import { theme, type Theme } from "../storage/preferences";
import type { Workbench } from "./workbench";

export interface Command {
  name: keyof Messages["commands"];
  /** What may follow the name; with it the command is completed, not run, until something does. */
  argument?: string;
  run: (bench: Workbench, argument: string) => void;
}

const NEXT_THEME: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };

export const COMMANDS: readonly Command[] = [
  { name: "new", run: (bench) => bench.showNew() },
  { name: "regenerate", run: (bench) => bench.regenerate() },
  { name: "continue", run: (bench) => bench.resume() },
  { name: "edit", run: (bench) => void bench.editLast() },
  { name: "copy", run: (bench) => void bench.copyLast() },
  { name: "inside", run: (bench) => bench.view.toggleLookInside() },
  { name: "prompt", run: (bench) => bench.view.toggleSheet("prompt") },
  {
    name: "system",
    argument: "text",
   
    run: (bench, text) => bench.setSettings({ system: text || undefined }),
  },
  { name: "temperature", argument: "0–2", run: setNumber("temperature", 0, 2) },
  { name: "seed", argument: "number", run: setNumber("seed", 0, 2 ** 31 - 1) },
  { name: "model", run: (bench) => bench.view.toggleSheet("card") },
  { name: "rated", run: (bench) => (bench.view.dialog.value = "ratings") },
  { name: "print", run: () => print() },
  { name: "settings", run: (bench) => bench.view.toggleSheet("settings") },
  { name: "file", run: (bench) => void bench.chooseAttachments() },
  { name: "markdown", run: (bench) => void bench.exportAs("md") },
  { name: "json", run: (bench) => void bench.exportAs("json") },
  { name: "import", run: (bench) => void bench.importFiles() },
  { name: "theme", run: () => (theme.value = NEXT_THEME[theme.value]) },
  { name: "keys", run: (bench) => (bench.view.dialog.value = "shortcuts") },
  {
    name: "delete",
   
    run: (bench) => void (bench.talk && bench.deleteConversations([bench.talk.id])),
  },
];

function setNumber(name: "temperature" | "seed", least: number, most: number): Command["run"] {
  return (bench, text) => {
    const value = Number(text);
    if (text.trim() !== "" && value >= least && value <= most) {
      bench.setSettings({ [name]: name === "seed" ? Math.floor(value) : value });
      bench.view.tell({ text: t.isFromNowOn(name, value) });
    } else {
      bench.view.tell({ text: t.mustBe(name, least, most) });
    }
  };
}

/** The commands that what is typed may become; none if it is no command. `hasKeys`: whether there may be a keyboard. */
export function matching(typed: string, hasKeys = true): Command[] {
  const name = /^\/(\w*)$/.exec(typed)?.[1]?.toLowerCase();
  const offered = name === undefined ? [] : COMMANDS.filter((command) => command.name.startsWith(name));
  return hasKeys ? offered : offered.filter((command) => command.name !== "keys");
}

/**
 * What looks like a command and is none: its name, and the one that it begins or that begins it. A path, or a slash in
 * the middle of a text, looks like none.
 */
export function unknownCommand(typed: string): { name: string; meant: string | null } | null {
  const name = /^\/([a-z]{2,20})(?:\s|$)/i.exec(typed.slice(0, 40))?.[1]?.toLowerCase();
  if (name === undefined || typedCommand(typed)) {
    return null;
  }
  const shared = (other: string) => {
    let length = 0;
    while (length < name.length && name[length] === other[length]) {
      length += 1;
    }
    return length;
  };
  const nearest = COMMANDS.reduce((best, each) => (shared(each.name) > shared(best.name) ? each : best));
  return { name, meant: shared(nearest.name) >= 2 ? nearest.name : null };
}

/** The command that is typed whole, and what follows its name. */
export function typedCommand(typed: string): { command: Command; argument: string } | null {
  const [, name, argument] = /^\/(\w+)(?:\s+([\s\S]*))?$/.exec(typed.trim()) ?? [];
  const command = COMMANDS.find((each) => each.name === name?.toLowerCase());
  return command ? { command, argument: argument ?? "" } : null;
}
