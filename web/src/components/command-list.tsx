/** The commands that what is typed may become. The focus stays in the field; arrows move the mark. */

import { useLayoutEffect, useRef } from "preact/hooks";
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
    <ul ref={list} id={id} class="commands" role="listbox" aria-label="Commands" tabIndex={0}>
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
            {command.argument && <i> {command.argument}</i>}
          </code>
          <span>{command.does}</span>
        </li>
      ))}
    </ul>
  );
}
