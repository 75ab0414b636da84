/** The conversation: its messages, and a line where what the model still sees begins. It follows what is written. */

import { useSignalEffect } from "@preact/signals";
import { Fragment } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { plainTitle } from "../conversation/direction";
import { plainText, type Message as Stored } from "../conversation/message";
import { t } from "../messages/language";
import { markFound } from "../state/found";
import { focusWhenLost, messageElement } from "../state/focus";
import type { Talk } from "../state/talk";
import { useWorkbench } from "../state/workbench";
import { Boundary } from "./boundary";
import { BranchStepper } from "./branch-stepper";
import { Icon } from "./icon";
import { IconButton } from "./icon-button";
import { Reply } from "./reply";
import { UserMessage } from "./user-message";

/** Within this distance of the end, in pixels, the end is what is being looked at. */
const NEAR = 60;

export function Transcript({ talk }: { talk: Talk }) {
  const bench = useWorkbench();
  const frame = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const shownTarget = useRef<unknown>(null);
  const [isAway, setIsAway] = useState(false);

  function toEnd() {
    frame.current?.scrollTo({ top: frame.current.scrollHeight });
  }

  function onToEnd() {
    toEnd();
    focusWhenLost(() => frame.current); // the button goes away
  }

  function onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = frame.current!;
    follows.current = scrollHeight - scrollTop - clientHeight < NEAR;
    setIsAway(!follows.current);
  }

  useEffect(() => {
    const observer = new ResizeObserver(() => follows.current && toEnd());
    observer.observe(content.current!);
    observer.observe(frame.current!);
    return () => observer.disconnect();
  }, []);

  // Opening a conversation, or saying something, is looking at its end.
  useSignalEffect(() => {
    void talk.path.value;
    if (bench.runningReply() !== null) {
      follows.current = true;
    }
  });
  useLayoutEffect(() => {
    follows.current = true;
    toEnd();
  }, [talk.id]);

  // A message that was searched for, or that a link leads to.
  const target = bench.view.target.value;
  const path = talk.path.value;
  useLayoutEffect(() => {
    const element = target && messageElement(target.message);
    if (element && shownTarget.current !== target) {
      shownTarget.current = target; // once: what is said next is looked at instead
      follows.current = false;
      element.scrollIntoView({ block: "center" });
    }
    markFound(element, target?.sought ?? "");
  }, [target, path]);

  return (
    <div class="transcript" ref={frame} onScroll={onScroll} tabIndex={0} role="region" aria-label={t.transcript.label}>
      <h1 class="visually-hidden">{plainTitle(talk.conversation.value.title)}</h1>
      <div class="column" ref={content}>
        <Messages talk={talk} />
        {talk.path.value.length === 0 && <p class="silent">{t.transcript.empty}</p>}
      </div>
      {isAway && (
        <div class="to-end">
          <IconButton icon="down" label={t.transcript.toEnd} onClick={onToEnd} />
        </div>
      )}
    </div>
  );
}

function Messages({ talk }: { talk: Talk }) {
  const path = talk.path.value;
  const seenFrom = seenFromOf(talk, path);
  return (
    <>
      {path.map((id, index) => {
        const round = talk.roundOf(id);
        const isLast = index === path.length - 1;
        return (
          // A round stays itself, whichever of its replies is gone on from.
          <Fragment key={round.length > 1 ? round.join() : id}>
            {id === seenFrom && index > 0 && <Forgotten />}
            {round.length > 1 ? (
              <Round talk={talk} ids={round} chosen={id} isLast={isLast} />
            ) : (
              <Message talk={talk} id={id} isLast={isLast} />
            )}
          </Fragment>
        );
      })}
    </>
  );
}

interface RoundProps {
  talk: Talk;
  ids: readonly string[];
  chosen: string;
  isLast: boolean;
}

/** Replies that were made at once to one message, side by side, and which of them the conversation goes on from. */
function Round({ talk, ids, chosen, isLast }: RoundProps) {
  const bench = useWorkbench();
  return (
    <>
    <div
      class="round"
      role="group"
      tabIndex={0}
      aria-label={t.transcript.sideBySide(ids.length)}
      style={{ "--replies": ids.length }}
    >
      {ids.map((id) => {
        const reply = talk.message(id)?.value;
        return (
          <section key={id} class={`round-reply ${id === chosen ? "is-chosen" : ""}`}>
            <div class="round-head">
              <b>{reply?.role === "assistant" ? reply.model : ""}</b>
              <button type="button" class="round-choice" aria-pressed={id === chosen} onClick={() => bench.goOnFrom(id)}>
                <Icon name={id === chosen ? "check" : "forward"} size={14} /> {t.transcript.goOnFromThis}
              </button>
            </div>
            <Message talk={talk} id={id} isLast={isLast} isBeside />
          </section>
        );
      })}
    </div>
    <div class="round-versions">
      <BranchStepper id={chosen} />
    </div>
    </>
  );
}

/** Where what the model saw began when it wrote the last reply shown. */
function seenFromOf(talk: Talk, path: readonly string[]): string | null {
  const last = talk.message(path.at(-1) ?? "")?.value;
  return last?.role === "assistant" ? last.seenFrom : null;
}

function Message({ talk, id, isLast, isBeside = false }: { talk: Talk; id: string; isLast: boolean; isBeside?: boolean }) {
  const message = talk.message(id)?.value;
  if (!message) {
    return null;
  }
  return (
    <Boundary of={message} instead={<Undrawn message={message} />}>
      {message.role === "user" ? <UserMessage message={message} /> : <Reply reply={message} isLast={isLast} isBeside={isBeside} />}
    </Boundary>
  );
}

/** In the place of a message that the page failed to draw: its text, and the way to be rid of it. */
function Undrawn({ message }: { message: Stored }) {
  const bench = useWorkbench();
  return (
    <article class="message" aria-label={t.transcript.undrawnLabel}>
      <div class="problem" role="alert">
        <Icon name="warning" />
        <p>{t.transcript.undrawn}</p>
        <div class="remedies">
          <button type="button" class="button" onClick={() => void bench.copy(plainText(message))}>
            {t.transcript.copyItsText}
          </button>
          <button type="button" class="button" onClick={() => bench.deleteMessage(message.id)}>
            {t.transcript.deleteIt}
          </button>
        </div>
      </div>
    </article>
  );
}

function Forgotten() {
  return (
    <div class="forgotten" role="separator" aria-label={t.transcript.forgottenLabel}>
      <span>{t.transcript.forgotten}</span>
    </div>
  );
}
