/** Why a reply is not there, or not whole, and what can be done about it. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { ProblemKind, Reply } from "../conversation/message";
import { canResume, useWorkbench, type Workbench } from "../state/workbench";
import { Icon, type IconName } from "./icon";

interface Remedy {
  label: string;
  run: () => void;
}

const ICONS: Record<ProblemKind, IconName> = {
  unreachable: "plug",
  busy: "clock",
  loading: "clock",
  key: "key",
  context: "warning",
  model: "warning",
  refused: "warning",
  lost: "plug",
};

export function ProblemCard({ reply }: { reply: Reply }) {
  const bench = useWorkbench();
  const { problem } = reply;
  if (reply.state === "waiting" && problem) {
    return (
      <Card icon={ICONS[problem.kind]} remedies={[{ label: "Stop waiting", run: () => bench.stop() }]}>
        {problem.message} <Countdown until={problem.retryAt ?? 0} />
      </Card>
    );
  }
  const goOn: Remedy[] = canResume(reply) && problem?.kind !== "context" ? [{ label: "Continue", run: () => bench.resume(reply.id) }] : [];
  if (problem) {
    return (
      <Card icon={ICONS[problem.kind]} isAlert remedies={[...goOn, ...remediesFor(problem.kind, reply, bench)]}>
        {problem.kind === "unreachable" && bench.models.isReady.value ? "The server is back." : problem.message}
      </Card>
    );
  }
  if (reply.state === "stopped" || reply.state === "cut") {
    const isFull = reply.figures !== null && reply.figures.contextUsed >= (reply.figures.contextLength ?? Infinity);
    const reason = reply.state === "stopped" ? "Stopped." : isFull ? "The context is full." : "Cut off at the limit on tokens.";
    const again: Remedy = { label: "Try again", run: () => bench.retry(reply.id) };
    return <Card remedies={goOn.length > 0 ? goOn : [again]}>{reason}</Card>;
  }
  return null;
}

function remediesFor(kind: ProblemKind, reply: Reply, bench: Workbench): Remedy[] {
  const again: Remedy = { label: reply.parts.length > 0 ? "Start over" : "Try again", run: () => bench.retry(reply.id) };
  const settings: Remedy = { label: "Open settings", run: () => (bench.view.sheet.value = "settings") };
  switch (kind) {
    case "key":
      return [{ label: "Enter the key", run: () => (bench.view.dialog.value = "key") }];
    case "context":
      return contextRemedies(reply, bench);
    case "model":
      return [{ ...settings, label: "Choose another model" }, again];
    case "refused":
      return [again, settings];
    default:
      return [again];
  }
}

function contextRemedies(reply: Reply, bench: Workbench): Remedy[] {
  const shorten: Remedy = { label: "Shorten the message", run: () => (bench.view.editing.value = reply.parent) };
  const fresh: Remedy = { label: "New conversation", run: () => bench.showNew() };
  if (!bench.settings.value.keepWhole) {
    return reply.parts.length > 0 ? [fresh] : [shorten, fresh];
  }
  const leaveOut: Remedy = {
    label: "Leave out the oldest turns",
    run: () => {
      bench.setSettings({ keepWhole: undefined });
      if (canResume(reply)) {
        bench.resume(reply.id);
      } else {
        bench.retry(reply.id);
      }
    },
  };
  return [leaveOut, shorten, fresh];
}

interface CardProps {
  icon?: IconName;
  isAlert?: boolean;
  remedies: Remedy[];
  children: ComponentChildren;
}

function Card({ icon, isAlert, remedies, children }: CardProps) {
  return (
    <div class={`problem ${icon ? "" : "is-mild"}`} {...(isAlert && { role: "alert" })}>
      {icon && <Icon name={icon} />}
      <p>{children}</p>
      <div class="remedies">
        {remedies.map(({ label, run }) => (
          <button key={label} type="button" class="button" onClick={run}>
            {label}
          </button>
        ))}
      </div>
    </div>
  );
}

function Countdown({ until }: { until: number }) {
  const left = () => Math.max(0, Math.ceil((until - Date.now()) / 1000));
  const [seconds, setSeconds] = useState(left());
  useEffect(() => {
    setSeconds(left());
    const timer = setInterval(() => setSeconds(left()), 250);
    return () => clearInterval(timer);
  }, [until]);
  return <span class="countdown">Trying again {seconds > 0 ? `in ${seconds} s` : "now"}.</span>;
}
