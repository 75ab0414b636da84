/** Where a message is written: the field, the commands after a slash, and how full the context is. */

import { useEffect, useId, useRef, useState } from "preact/hooks";
import { matching, typedCommand, type Command } from "../state/commands";
import { isPhone, isTouch } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { CommandList } from "./command-list";
import { ContextGauge } from "./context-gauge";
import { GrowingField } from "./growing-field";
import { Icon } from "./icon";
import { IconButton } from "./icon-button";

export function Composer() {
  const bench = useWorkbench();
  const [text, setText] = useState("");
  const [marked, setMarked] = useState(0);
  const [isListHidden, setIsListHidden] = useState(false);
  const field = useRef<HTMLTextAreaElement>(null);
  const listId = useId();
  const commands = isListHidden ? [] : matching(text);
  const isWriting = bench.runningReply() !== null;

  useEffect(() => {
    if (!isTouch) {
      field.current?.focus();
    }
  }, [bench.talk?.id]);

  function write(value: string) {
    setText(value);
    setMarked(0);
    setIsListHidden(false);
  }

  function choose(command: Command) {
    if (command.argument) {
      write(`/${command.name} `);
    } else {
      write("");
      command.run(bench, "");
    }
    field.current?.focus();
  }

  function send() {
    const typed = typedCommand(text);
    if (typed) {
      write("");
      typed.command.run(bench, typed.argument);
    } else if (isWriting) {
      bench.view.tell({ text: "A reply is being written. Esc stops it." });
    } else if (text.trim() !== "") {
      write("");
      bench.send(text.trim());
    }
  }

  function stop() {
    bench.stop();
    if (!isTouch) {
      field.current?.focus(); // the button that had it goes away
    }
  }

  function onKeyDown(event: KeyboardEvent) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (commands.length > 0 && step) {
      event.preventDefault();
      setMarked((marked + step + commands.length) % commands.length);
    } else if (commands.length > 0 && (event.key === "Enter" || event.key === "Tab")) {
      event.preventDefault();
      choose(commands[marked]!);
    } else if (commands.length > 0 && event.key === "Escape") {
      event.stopPropagation();
      setIsListHidden(true);
    } else if (event.key === "Enter" && !event.shiftKey && !isTouch) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && text === "" && bench.editLast()) {
      event.preventDefault();
    }
  }

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {commands.length > 0 && <CommandList id={listId} commands={commands} marked={marked} onChoose={choose} />}
      <div class="composer-box" onClick={(event) => event.target === event.currentTarget && field.current?.focus()}>
        <GrowingField
          innerRef={field}
          id="message"
          label="Message"
          placeholder={isPhone.value ? "Message or /command" : "Message, or / for commands"}
          value={text}
          onInput={write}
          onKeyDown={onKeyDown}
          list={commands.length > 0 ? { id: listId, active: `${listId}-${marked}` } : null}
        />
        {isWriting ? (
          <IconButton icon="stop" label="Stop" class="send" onClick={stop} />
        ) : (
          <button type="submit" class="icon-button send" aria-label="Send" title="Send" disabled={text.trim() === ""}>
            <Icon name="send" size={20} />
          </button>
        )}
      </div>
      <ContextGauge />
    </form>
  );
}
