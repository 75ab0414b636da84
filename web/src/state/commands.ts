/** What can be typed after a slash. */

import { theme, type Theme } from "../storage/preferences";
import type { Workbench } from "./workbench";

export interface Command {
  name: string;
  /** What may follow the name; with it the command is completed, not run, until something does. */
  argument?: string;
  does: string;
  run: (bench: Workbench, argument: string) => void;
}

const NEXT_THEME: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };

export const COMMANDS: readonly Command[] = [
  { name: "new", does: "Begin a new conversation", run: (bench) => bench.showNew() },
  { name: "regenerate", does: "Another reply to your last message", run: (bench) => bench.regenerate() },
  { name: "continue", does: "Go on with a reply that was cut off", run: (bench) => bench.resume() },
  { name: "edit", does: "Edit your last message", run: (bench) => void bench.editLast() },
  { name: "copy", does: "Copy the last reply", run: (bench) => void bench.copyLast() },
  { name: "inside", does: "Look inside: show replies as tokens", run: (bench) => bench.view.toggleLookInside() },
  { name: "prompt", does: "Show the prompt as the model sees it", run: (bench) => bench.view.toggleSheet("prompt") },
  {
    name: "system",
    argument: "text",
    does: "Tell the model how to behave",
    run: (bench, text) => bench.setSettings({ system: text || undefined }),
  },
  { name: "temperature", argument: "0–2", does: "How freely words are chosen", run: setNumber("temperature", 0, 2) },
  { name: "seed", argument: "number", does: "Make replies repeatable", run: setNumber("seed", 0, 2 ** 31 - 1) },
  { name: "model", does: "About the model: its data, scores and cost", run: (bench) => bench.view.toggleSheet("card") },
  { name: "rated", does: "Save rated replies to train on", run: (bench) => (bench.view.dialog.value = "ratings") },
  { name: "print", does: "Print this conversation", run: () => print() },
  { name: "settings", does: "Open the settings", run: (bench) => bench.view.toggleSheet("settings") },
  { name: "file", does: "Let a text file go along with the message", run: (bench) => void bench.chooseAttachments() },
  { name: "markdown", does: "Export this conversation as Markdown", run: (bench) => void bench.exportAs("md") },
  { name: "json", does: "Export this conversation as JSON", run: (bench) => void bench.exportAs("json") },
  { name: "import", does: "Import conversations from files", run: (bench) => void bench.importFiles() },
  { name: "theme", does: "Light, dark, or as the system is", run: () => (theme.value = NEXT_THEME[theme.value]) },
  { name: "keys", does: "Show the keyboard shortcuts", run: (bench) => (bench.view.dialog.value = "shortcuts") },
  {
    name: "delete",
    does: "Delete this conversation",
    run: (bench) => void (bench.talk && bench.deleteConversations([bench.talk.id])),
  },
];

function setNumber(name: "temperature" | "seed", least: number, most: number): Command["run"] {
  return (bench, text) => {
    const value = Number(text);
    if (text.trim() !== "" && value >= least && value <= most) {
      bench.setSettings({ [name]: name === "seed" ? Math.floor(value) : value });
      bench.view.tell({ text: `The ${name} is ${value} from now on.` });
    } else {
      bench.view.tell({ text: `The ${name} must be a number from ${least} to ${most}.` });
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
