import { expect, test } from "vitest";
import { COMMANDS, matching, typedCommand } from "../src/state/commands";

test("a slash offers all commands, letters narrow them down", () => {
  expect(matching("/")).toHaveLength(COMMANDS.length);
  expect(matching("/Se").map(({ name }) => name)).toEqual(["seed", "settings"]);
  expect(matching("/system You are")).toEqual([]);
  expect(matching("1/2")).toEqual([]);
});

test("a command is known with what follows it; other slashes are messages", () => {
  expect(typedCommand("/system Be brief.\nVery.")).toMatchObject({ command: { name: "system" }, argument: "Be brief.\nVery." });
  expect(typedCommand("/NEW")).toMatchObject({ command: { name: "new" }, argument: "" });
  expect(typedCommand("/usr/bin is a folder")).toBe(null);
});

test("where there is no keyboard, its keys are not offered", () => {
  expect(matching("/k")).toHaveLength(1);
  expect(matching("/k", false)).toEqual([]);
});
