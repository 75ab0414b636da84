/** Where a message is written: the field, the commands after a slash, and how full the context is. */

import { useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { t } from "../messages/language";
import { matching, typedCommand, unknownCommand, type Command } from "../state/commands";
import { whole } from "../state/drafts";
import { isPhone, isTouch } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { CommandList } from "./command-list";
import { ContextGauge } from "./context-gauge";
import { GrowingField } from "./growing-field";
import { Icon } from "./icon";
import { IconButton } from "./icon-button";

/** A pasted text longer than this is shown as one thing: in the field every key would lay all of it out anew. */
const LONG_PASTE = 20_000;

export function Composer() {
  const bench = useWorkbench();
  const conversation = bench.talk?.id ?? "";
  const draft = bench.drafts.of(conversation);
  const { text, pasted } = draft;
  const [marked, setMarked] = useState(0);
  const [isListHidden, setIsListHidden] = useState(false);
  const field = useRef<HTMLTextAreaElement>(null);
  const listId = useId();
  const commands = isListHidden ? [] : matching(text, !isTouch);
  const isWriting = bench.runningReply() !== null;
  const isRaw = bench.settings.value.raw === true;
  const queued = bench.queued.value.get(conversation);
  const isEmpty = pasted.length === 0 && !/\S/.test(text);

  useLayoutEffect(() => {
    if (!isTouch) {
      field.current?.focus();
    }
  }, [bench.talk?.id]);

  function write(value: string) {
    bench.drafts.set(conversation, { text: value, pasted });
    setMarked(0);
    setIsListHidden(false);
  }

  function onPaste(event: ClipboardEvent) {
    const value = event.clipboardData?.getData("text/plain") ?? "";
    if (event.clipboardData?.files.length) {
      event.preventDefault();
      void bench.attach([...event.clipboardData.files]);
    } else if (value.length > LONG_PASTE) {
      event.preventDefault();
      bench.drafts.set(conversation, { text, pasted: [...pasted, { name: null, text: value }] });
    }
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
    const typed = pasted.length === 0 ? typedCommand(text) : null;
    const unknown = typed === null && pasted.length === 0 ? unknownCommand(text) : null;
    if (typed) {
      write("");
      typed.command.run(bench, typed.argument);
    } else if (unknown) {
      bench.view.tell({
        text: t.composer.noCommand(unknown.name, unknown.meant),
        action: { label: t.composer.sendAsMessage, run: sendMessage },
      });
    } else if (!isEmpty) {
      sendMessage();
    }
  }

  function sendMessage() {
    const message = whole(bench.drafts.of(conversation), isRaw);
    bench.drafts.set(conversation, { text: "", pasted: [] });
    if (isWriting) {
      bench.queue(message);
    } else {
      bench.send(message);
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
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        void bench.attach([...(event.dataTransfer?.files ?? [])]);
        field.current?.focus();
      }}
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {commands.length > 0 && <CommandList id={listId} commands={commands} marked={marked} onChoose={choose} />}
      {pasted.length > 0 && (
        <ul class="pasted" aria-label={t.composer.goAlong}>
          {pasted.map((value, index) => (
            <li key={index}>
              <span>
                <b dir="auto">{value.name ?? t.composer.pasted}</b> {t.format.characters(value.text.length)}
              </span>
              <IconButton
                icon="close"
                label={value.name === null ? t.composer.removePasted : t.composer.remove(value.name)}
                size={14}
                onClick={() => {
                  bench.drafts.set(conversation, { text, pasted: pasted.filter((_, other) => other !== index) });
                  field.current?.focus();
                }}
              />
            </li>
          ))}
        </ul>
      )}
      {queued !== undefined && (
        <div class="pasted queued">
          <span>
            <b>{t.composer.next}</b> <span dir="auto">{queued}</span>
          </span>
          <IconButton
            icon="edit"
            label={t.composer.backToField}
            size={14}
            onClick={() => {
              bench.unqueue(conversation);
              field.current?.focus();
            }}
          />
        </div>
      )}
      <div class="composer-box" onClick={(event) => event.target === event.currentTarget && field.current?.focus()}>
        <GrowingField
          innerRef={field}
          id="message"
          label={t.composer.message}
          placeholder={isRaw ? t.composer.placeholderRaw : isPhone.value ? t.composer.placeholderPhone : t.composer.placeholder}
          value={text}
          onInput={write}
          onKeyDown={onKeyDown}
          onPaste={onPaste}
          list={commands.length > 0 ? { id: listId, active: `${listId}-${marked}` } : null}
        />
        {isWriting && <IconButton icon="stop" label={t.common.stop} class={isEmpty ? "send" : ""} onClick={stop} />}
        {(!isWriting || !isEmpty) && (
          <button type="submit" class="icon-button send" aria-label={isWriting ? t.composer.sendNext : t.composer.send} title={isWriting ? t.composer.sendNextHelp : t.composer.send} disabled={isEmpty}>
            <Icon name="send" size={20} />
          </button>
        )}
      </div>
      <ContextGauge draft={draft} onShorten={(shorter) => bench.drafts.set(conversation, shorter)} />
    </form>
  );
}
