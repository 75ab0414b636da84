/** Why a reply is not there, or not whole, and what can be done about it. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { ProblemKind, Reply } from "../conversation/message";
import { useWorkbench, type Workbench } from "../state/workbench";
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
  const goOn: Remedy[] = bench.canResume(reply) ? [{ label: "Continue", run: () => bench.resume(reply.id) }] : [];
  if (problem) {
    return (
      <Card icon={ICONS[problem.kind]} isAlert remedies={[...goOn, ...remediesFor(problem.kind, reply, bench)]}>
        {problem.kind === "unreachable" && bench.models.isReady.value ? "The server is back." : problem.message}
      </Card>
    );
  }
  if (reply.state === "stopped" || reply.state === "cut") {
    const again: Remedy = { label: "Try again", run: () => bench.retry(reply.id) };
    const instead = bench.isContextFull(reply) ? contextRemedies(reply, bench) : [again];
    return <Card remedies={goOn.length > 0 ? goOn : instead}>{reasonFor(reply, bench)}</Card>;
  }
  return null;
}

/** Why a reply broke off that met no problem. */
function reasonFor(reply: Reply, bench: Workbench): string {
  if (!bench.isContextFull(reply)) {
    return reply.state === "stopped" ? "Stopped." : "Cut off at the limit on tokens.";
  }
  return bench.canResume(reply)
    ? "The context is full: going on leaves out the oldest turns."
    : "The context is full: this reply cannot grow any longer.";
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
  const leaveOut: Remedy = { label: "Leave out the oldest turns", run: () => bench.leaveOutOldest(reply) };
  return bench.sawOlderTurns(reply) ? [leaveOut, shorten, fresh] : [shorten, fresh];
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
