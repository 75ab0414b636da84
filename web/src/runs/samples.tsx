/** What the models of a run say to the same prompts, stage by stage, and what reinforcement learning tried. */

import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import { Icon } from "../components/icon";
import { ReplyTokens } from "../components/reply-tokens";
import { TokenLegend } from "../components/token-legend";
import type { Token } from "../conversation/message";
import { isSpecial } from "../conversation/tokens";
import { Asked } from "./asked";
import { Command } from "./command";
import type { Details, KeptToken, Run, Sample, Texts } from "./data";
import { named, t } from "../messages/language";
import { short, whole } from "./words";

interface Props {
  run: Run;
  /** The run that this one is compared with. */
  other: Run | null;
}

const MOST = 5;

export function Samples({ run: { details, models, state, name }, other }: Props) {
  const [toTalkTo, setToTalkTo] = useState<string | null>(null);
  const said = useMemo(() => moments(details, name), [details, name]);
  const otherSaid = useMemo(() => (other ? moments(other.details, other.name) : []), [other?.details]);
  const samples = details.samples.slice(0, MOST);
  const stages = Object.keys(details.stages).filter((stage) => samples.some(({ replies }) => replies[stage] !== undefined));
  return (
    <>
      {samples.length > 0 && <ByStage samples={samples} stages={stages} model={Object.values(models).at(-1)} />}
      <Written moments={said} others={otherSaid} onTalk={(stage) => (setToTalkTo(stage), toTalk())} />
      <Tried texts={details.texts.filter(({ shown }) => shown)} />
      <TalkTo details={details} models={models} run={state.command.replace(/^\S+ \S+ /, "")} chosen={toTalkTo} onChoose={setToTalkTo} />
    </>
  );
}

function ByStage({ samples, stages, model }: { samples: readonly Sample[]; stages: readonly string[]; model: string | undefined }) {
  const [stage, setStage] = useState<string | null>(null);
  const shown = stage ? [stage] : stages;
  return (
    <section class="card">
      <div class="card-head">
        <h2>{t.runs.samePrompts}</h2>
        {stages.length > 1 && (
          <div class="choices" role="group" aria-label={t.runs.stageChoice}>
            {[null, ...stages].map((one) => (
              <button key={one ?? ""} type="button" class="choice" aria-pressed={stage === one} onClick={() => setStage(one)}>
                {one ?? t.runs.sideBySideShort}
              </button>
            ))}
          </div>
        )}
      </div>
      {samples.map((sample) => (
        <article key={sample.section + sample.prompt} class="sample">
          <Prompt text={sample.prompt} />
          <div class="sample-replies" style={{ "--columns": shown.length }}>
            {shown.map((one) => sample.replies[one] !== undefined && <Said key={one} stage={one} text={sample.replies[one]} isNamed={stages.length > 1} />)}
          </div>
          {!FIXED.has(sample.section) && (
            <p class="sample-note">{sample.expected ? t.runs.expected(sample.section, sample.expected) : sample.section}</p>
          )}
          {model && <Asked model={model} prompt={sample.prompt} />}
        </article>
      ))}
    </section>
  );
}

/** Sections of prompts that nobody judges. */
const FIXED: ReadonlySet<string> = new Set(["continued", "answered", "free"]);
const VERDICT = /^\((right|wrong)\) /;

function Said({ stage, text, isNamed }: { stage: string; text: string; isNamed: boolean }) {
  const verdict = VERDICT.exec(text)?.[1];
  return (
    <Reply title={isNamed ? stage : null}>
      <p dir="auto">{text.replace(VERDICT, "") || <i>{t.runs.nothing}</i>}</p>
      {verdict && <span class={`verdict is-${verdict}`}>{named(t.runs.verdicts, verdict)}</span>}
    </Reply>
  );
}

function Prompt({ text }: { text: string }) {
  return (
    <p class="sample-said">
      <span dir="auto">{text}</span>
    </p>
  );
}

/** A reply in the frame that the chat gives it. */
function Reply({ title, children }: { title: string | null; children: ComponentChildren }) {
  return (
    <div class="sample-reply">
      <span class="sample-mark">
        <Icon name="anvil" size={18} />
      </span>
      <div>
        {title !== null && <h3>{title}</h3>}
        {children}
      </div>
    </div>
  );
}

/** What a model said at an evaluation: token by token, or as one text in records of before. */
interface Moment {
  id: string;
  run: string;
  stage: string;
  step: number;
  samples: readonly { prompt: string; tokens?: readonly Token[]; text?: string }[];
  /** What the weights of that step are called, where they were kept. */
  checkpoint: string | null;
}

function moments({ texts, checkpoints, done }: Details, run: string): Moment[] {
  const spoken = texts.filter(({ sample, samples }) => sample ?? samples);
  return spoken.map(({ stage, step, sample, samples }, index) => {
    const kept = checkpoints[stage]?.find((name) => Number(name) === step);
    const isLast = spoken[index + 1]?.stage !== stage && done[stage]?.is_done === true;
    return {
      id: `${run} ${stage} ${step}`,
      run,
      stage,
      step,
      samples: samples?.map(({ prompt, tokens }) => ({ prompt, tokens: tokensOf(tokens) })) ?? [{ prompt: "", text: sample ?? "" }],
      checkpoint: kept !== undefined ? `${stage}@${kept}` : isLast ? stage : null,
    };
  });
}

/** What the calculator put in is one token, as in the chat. */
function tokensOf(kept: readonly KeptToken[]): Token[] {
  const shown = (said: string | number[]) => (typeof said === "string" ? { text: said } : { text: "\ufffd", bytes: said });
  const tokens: Token[] = [];
  for (const [id, text, logprob, alternatives] of kept) {
    const last = tokens.at(-1);
    if (logprob !== null) {
      const choices = alternatives.map(([other, said, its]) => ({ id: other, logprob: its, ...shown(said) }));
      tokens.push({ ids: [id], ...shown(text), logprob, alternatives: choices, origin: "sampled" });
    } else {
      const added = typeof text === "string" && !isSpecial(text) ? text : "";
      const before = last?.origin === "given" ? tokens.pop()! : { ids: [], text: "" };
      tokens.push({ ids: [...before.ids, id], text: before.text + added, logprob: null, alternatives: [], origin: "given" });
    }
  }
  return tokens;
}

function saidTo(moment: Moment, prompt: string) {
  return moment.samples.find((sample) => sample.prompt === prompt);
}

interface WrittenProps {
  moments: readonly Moment[];
  /** Of the run that this one is compared with. */
  others: readonly Moment[];
  onTalk: (checkpoint: string) => void;
}

/** What the model being trained says at each evaluation, beside what it said at another, or another run did. */
function Written({ moments: all, others, onTalk }: WrittenProps) {
  const [index, setIndex] = useSlide(all);
  const [compared, setCompared] = useState("");
  if (index < 0) {
    return null;
  }
  const now = all[index]!;
  // Stages are asked different things: only what was asked the same can be compared.
  const comparable = [...others, ...all].filter((moment) => moment !== now && now.samples.some(({ prompt }) => saidTo(moment, prompt)));
  const beside = comparable.find(({ id }) => id === compared);
  const shown = beside ? [now, beside] : [now];
  const name = ({ run, stage, step }: Moment) => t.runs.moment(others.length > 0 ? run : null, stage, whole(step));
  return (
    <section class="card">
      <Slide title={t.runs.writes(now.stage, whole(now.step))} texts={all} index={index} onSlide={setIndex} />
      <div class="moment-tools">
        {comparable.length > 0 && (
          <label class="compare">
            {t.runs.compareWith}{" "}
            <select value={beside ? compared : ""} onChange={(event) => setCompared(event.currentTarget.value)}>
              <option value="">–</option>
              {comparable.map((moment) => (
                <option key={moment.id} value={moment.id}>
                  {name(moment)}
                </option>
              ))}
            </select>
          </label>
        )}
        {now.checkpoint !== null && (
          <button type="button" class="button" onClick={() => onTalk(now.checkpoint!)}>
            {t.runs.talkToThis}
          </button>
        )}
      </div>
      {now.samples.some(({ tokens }) => tokens) && <TokenLegend />}
      {now.samples.map(({ prompt }) => (
        <article key={prompt} class="sample">
          {prompt && <Prompt text={prompt} />}
          <div class="sample-replies" style={{ "--columns": shown.length }}>
            {shown.map((moment) => {
              const said = saidTo(moment, prompt);
              return (
                <Reply key={moment.id} title={beside ? name(moment) : null}>
                  {said?.tokens?.length ? <ReplyTokens tokens={said.tokens} /> : <p dir="auto">{said?.text ?? <i>{t.runs.nothing}</i>}</p>}
                </Reply>
              );
            })}
          </div>
        </article>
      ))}
    </section>
  );
}

/** Replies of reinforcement learning with their rewards, step by step. */
function Tried({ texts }: { texts: readonly Texts[] }) {
  const [index, setIndex] = useSlide(texts);
  if (index < 0) {
    return null;
  }
  const { step, shown } = texts[index]!;
  return (
    <section class="card">
      <Slide title={t.runs.tried(whole(step))} texts={texts} index={index} onSlide={setIndex} />
      {shown!.map(({ prompt, reply, reward, group }) => (
        <article key={prompt} class="sample">
          <Prompt text={prompt} />
          <Reply title={null}>
            <p dir="auto">{reply}</p>
            <span class="sample-note">
              {t.runs.reward(reward === null ? t.runs.failed : short(reward), t.format.list(group.map((one) => (one === null ? "–" : short(one)))))}
            </span>
          </Reply>
        </article>
      ))}
    </section>
  );
}

/** The text that is shown: the one that was chosen, else always the newest; -1 if there is none. */
function useSlide(texts: readonly unknown[]): [number, (index: number) => void] {
  const [chosen, setChosen] = useState<number | null>(null);
  const last = texts.length - 1;
  return [Math.min(chosen ?? last, last), (index) => setChosen(index === last ? null : index)];
}

interface SlideProps {
  title: string;
  texts: readonly { step: number }[];
  index: number;
  onSlide: (index: number) => void;
}

function Slide({ title, texts, index, onSlide }: SlideProps) {
  return (
    <div class="card-head">
      <h2>{title}</h2>
      {texts.length > 1 && (
        <input
          type="range"
          class="slider"
          min={0}
          max={texts.length - 1}
          value={index}
          aria-label={t.runs.stepSlider}
          aria-valuetext={t.runs.stepOf(whole(texts[index]!.step))}
          onInput={(event) => onSlide(Number(event.currentTarget.value))}
        />
      )}
    </div>
  );
}

const TALK = "talk";

function toTalk(): void {
  document.getElementById(TALK)?.scrollIntoView({ block: "center" });
  document.querySelector<HTMLElement>(`#${TALK} [aria-pressed="true"]`)?.focus();
}

interface TalkProps {
  details: Details;
  models: Record<string, string>;
  run: string;
  chosen: string | null;
  onChoose: (stage: string) => void;
}

/** How to talk to what there is so far. */
function TalkTo({ details, models, run, chosen, onChoose }: TalkProps) {
  const made = ["pretrain", "mid", "sft", "rl"].flatMap((stage) => [
    ...(details.checkpoints[stage] ?? []).map((step) => `${stage}@${step}`),
    ...(details.done[stage]?.is_done ? [stage] : []),
  ]);
  const stage = chosen ?? made.at(-1);
  if (!stage) {
    return null;
  }
  return (
    <section class="card" id={TALK}>
      <div class="card-head">
        <h2>{t.runs.talkTitle}</h2>
        {made.length > 1 && (
          <div class="choices" role="group" aria-label={t.runs.talkChoice}>
            {made.map((one) => (
              <button key={one} type="button" class="choice" aria-pressed={stage === one} onClick={() => onChoose(one)}>
                {one}
              </button>
            ))}
          </div>
        )}
      </div>
      {models[stage] ? (
        <a class="button is-primary" href="./">
          {t.runs.talkHere(models[stage])}
        </a>
      ) : (
        <>
          <p class="sample-note">{t.runs.notServed(stage)}</p>
          <Command text={`chatsmith chat ${run}/${stage}`} />
          <Command text={`chatsmith serve ${run}/${stage}`} />
        </>
      )}
    </section>
  );
}
