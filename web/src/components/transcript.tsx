/** The conversation: its messages, and a line where what the model still sees begins. It follows what is written. */

import { useSignalEffect } from "@preact/signals";
import { Fragment } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { plainTitle } from "../conversation/direction";
import { plainText, type Message as Stored } from "../conversation/message";
import { focusWhenLost } from "../state/focus";
import type { Talk } from "../state/talk";
import { useWorkbench } from "../state/workbench";
import { Boundary } from "./boundary";
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

  return (
    <div class="transcript" ref={frame} onScroll={onScroll} tabIndex={0} role="region" aria-label="Conversation">
      <h1 class="visually-hidden">{plainTitle(talk.conversation.value.title)}</h1>
      <div class="column" ref={content}>
        <Messages talk={talk} />
        {talk.path.value.length === 0 && <p class="silent">Nothing is said here any more. What you write begins it anew.</p>}
      </div>
      {isAway && (
        <div class="to-end">
          <IconButton icon="down" label="To the end" onClick={onToEnd} />
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
      {path.map((id, index) => (
        <Fragment key={id}>
          {id === seenFrom && index > 0 && <Forgotten />}
          <Message talk={talk} id={id} isLast={index === path.length - 1} />
        </Fragment>
      ))}
    </>
  );
}

/** Where what the model saw began when it wrote the last reply shown. */
function seenFromOf(talk: Talk, path: readonly string[]): string | null {
  const last = talk.message(path.at(-1) ?? "")?.value;
  return last?.role === "assistant" ? last.seenFrom : null;
}

function Message({ talk, id, isLast }: { talk: Talk; id: string; isLast: boolean }) {
  const message = talk.message(id)?.value;
  if (!message) {
    return null;
  }
  return (
    <Boundary of={message} instead={<Undrawn message={message} />}>
      {message.role === "user" ? <UserMessage message={message} /> : <Reply reply={message} isLast={isLast} />}
    </Boundary>
  );
}

/** In the place of a message that the page failed to draw: its text, and the way to be rid of it. */
function Undrawn({ message }: { message: Stored }) {
  const bench = useWorkbench();
  return (
    <article class="message" aria-label="A message that cannot be shown">
      <div class="problem" role="alert">
        <Icon name="warning" />
        <p>This message cannot be shown as it should be.</p>
        <div class="remedies">
          <button type="button" class="button" onClick={() => void bench.copy(plainText(message))}>
            Copy its text
          </button>
          <button type="button" class="button" onClick={() => bench.deleteMessage(message.id)}>
            Delete it
          </button>
        </div>
      </div>
    </article>
  );
}

function Forgotten() {
  return (
    <div class="forgotten" role="separator" aria-label="The model no longer sees what is above this line">
      <span>The model no longer sees what is above</span>
    </div>
  );
}
