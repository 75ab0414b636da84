/** The commands that what is typed may become. The focus stays in the field; arrows move the mark. */

import { useLayoutEffect, useRef } from "preact/hooks";
import { named, t } from "../messages/language";
import type { Command } from "../state/commands";

interface Props {
  id: string;
  commands: readonly Command[];
  marked: number;
  onChoose: (command: Command) => void;
}

export function CommandList({ id, commands, marked, onChoose }: Props) {
  const list = useRef<HTMLUListElement>(null);
  useLayoutEffect(() => {
    list.current?.children[marked]?.scrollIntoView({ block: "nearest" });
  }, [marked]);
  return (
    <ul ref={list} id={id} class="commands" role="listbox" aria-label={t.composer.commands} tabIndex={0}>
      {commands.map((command, index) => (
        <li
          key={command.name}
          id={`${id}-${index}`}
          role="option"
          aria-selected={index === marked}
          onPointerDown={(event) => {
            event.preventDefault(); // the focus stays where it is
            onChoose(command);
          }}
        >
          <code>
            /{command.name}
            {command.argument && <i> {named(t.commandArguments, command.argument)}</i>}
          </code>
          <span>{t.commands[command.name]}</span>
        </li>
      ))}
    </ul>
  );
}
