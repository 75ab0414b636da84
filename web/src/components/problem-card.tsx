/** Why a reply is not there, or not whole, and what can be done about it. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { ProblemKind, Reply } from "../conversation/message";
import { t } from "../messages/language";
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
      <Card icon={ICONS[problem.kind]} remedies={[{ label: t.problem.stopWaiting, run: () => bench.stop() }]}>
        {problem.message} <Countdown until={problem.retryAt ?? 0} />
      </Card>
    );
  }
  const goOn: Remedy[] = bench.canResume(reply) ? [{ label: t.common.goOn, run: () => bench.resume(reply.id) }] : [];
  if (problem) {
    return (
      <Card icon={ICONS[problem.kind]} isAlert remedies={[...goOn, ...remediesFor(problem.kind, reply, bench)]}>
        {problem.kind === "unreachable" && bench.models.isReady.value ? t.problem.isBack : problem.message}
      </Card>
    );
  }
  if (reply.state === "stopped" || reply.state === "cut") {
    const again: Remedy = { label: t.common.tryAgain, run: () => bench.retry(reply.id) };
    const instead = bench.isContextFull(reply) ? contextRemedies(reply, bench) : [again];
    return <Card remedies={goOn.length > 0 ? goOn : instead}>{reasonFor(reply, bench)}</Card>;
  }
  return null;
}

/** Why a reply broke off that met no problem. */
function reasonFor(reply: Reply, bench: Workbench): string {
  if (!bench.isContextFull(reply)) {
    return reply.state === "stopped" ? t.problem.stopped : t.problem.cut;
  }
  return bench.canResume(reply)
    ? t.problem.fullLeavesOut
    : t.problem.full;
}

function remediesFor(kind: ProblemKind, reply: Reply, bench: Workbench): Remedy[] {
  const again: Remedy = { label: reply.parts.length > 0 ? t.problem.startOver : t.common.tryAgain, run: () => bench.retry(reply.id) };
  const settings: Remedy = { label: t.problem.openSettings, run: () => (bench.view.sheet.value = "settings") };
  switch (kind) {
    case "key":
      return [{ label: t.beginning.enterKey, run: () => (bench.view.dialog.value = "key") }];
    case "context":
      return contextRemedies(reply, bench);
    case "model":
      return [{ ...settings, label: t.problem.chooseModel }, again];
    case "refused":
      return [again, settings];
    default:
      return [again];
  }
}

function contextRemedies(reply: Reply, bench: Workbench): Remedy[] {
  const shorten: Remedy = { label: t.problem.shortenMessage, run: () => (bench.view.editing.value = reply.parent) };
  const fresh: Remedy = { label: t.problem.newConversation, run: () => bench.showNew() };
  if (!bench.settings.value.keepWhole) {
    return reply.parts.length > 0 ? [fresh] : [shorten, fresh];
  }
  const leaveOut: Remedy = { label: t.problem.leaveOut, run: () => bench.leaveOutOldest(reply) };
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
  return <span class="countdown">{t.problem.tryingIn(seconds)}</span>;
}
