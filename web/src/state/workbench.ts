/** Everything the page works with, put together; and what a person can do, whichever button or key asks for it. */

import { computed, effect, signal, untracked } from "@preact/signals";
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { Server } from "../api/server";
import { pathTo } from "../conversation/branches";
import { isContextFull, isUnfinished, sawOlderTurns } from "../conversation/ending";
import {
  isEmpty,
  plainText,
  type Alternative,
  type Message,
  type Reply,
  type Settings,
  type UserMessage,
} from "../conversation/message";
import { t } from "../messages/language";
import { Database } from "../storage/database";
import { keptKey, lastModel, sessionKey } from "../storage/preferences";
import { chooseConversations, chooseFiles, exportAll, exportConversation, readTextFile, type Format } from "../transfer/files";
import { copyText } from "./clipboard";
import { Drafts } from "./drafts";
import { entryElement, focusWhenLost, messageElement, messageField } from "./focus";
import { Library } from "./library";
import { Models } from "./models";
import type { Talk } from "./talk";
import { View } from "./view";
import { Writer } from "./writer";

export class Workbench {
  readonly view = new View();
  readonly drafts = new Drafts();
  readonly server = new Server(() => sessionKey.value || keptKey.value);
  readonly models = new Models(this.server);
  readonly writer = new Writer(this.server, this.models, () => (this.view.dialog.value = "key"));
  /** The settings of the conversation that is shown, begun or not. */
  readonly settings = computed<Settings>(
    () => this.library.open.value?.conversation.value.settings ?? this.library.draft.value,
  );

  readonly library: Library;

  /** What is said by itself once the reply is there, by conversation. */
  readonly queued = signal<ReadonlyMap<string, string>>(new Map());

  private constructor(database: Database | null) {
    this.library = new Library(database, {
      unsaved: () => {
        this.view.tell({
          text: t.problem.unsaved,
          action: { label: t.problem.exportIt, run: () => void this.exportAs("json") },
        });
      },
      gone: (id) => {
        this.leave();
        this.drafts.set("", this.drafts.of(id));
        this.view.tell({ text: t.problem.deletedElsewhere });
      },
      isWriting: (reply) => this.writer.running.peek().has(reply),
      stop: (reply) => this.writer.stop(reply),
    });
  }

  static async open(): Promise<Workbench> {
    let database: Database | null = null;
    try {
      database = await Database.open();
    } catch {
      // Reported below, once there is something to report it with.
    }
    const bench = new Workbench(database);
    await bench.library.load();
    if (!database) {
      bench.view.tell({ text: t.page.nothingKept });
    }
    return bench;
  }

  /** Begin to react: to the server, the address, and the page's being closed. */
  start(): void {
    void this.models.refresh();
    effect(() => {
      if (this.models.connection.value === "key") {
        this.view.dialog.value = "key";
      }
    });
    effect(() => {
      const { talk } = this;
      const text = talk && this.queued.value.get(talk.id);
      if (text !== undefined && text !== null && this.runningReply() === null) {
        untracked(() => this.sayQueued(talk!, text));
      }
    });
    // Loading anew breaks off the requests before the page is hidden.
    addEventListener("beforeunload", () => this.writer.leave());
    addEventListener("pagehide", () => {
      this.library.saveAll();
      this.drafts.save();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) {
        this.library.saveAll();
      } else {
        void this.library.refresh();
      }
    });
    addEventListener("pageshow", ({ persisted }) => persisted && location.reload()); // out of the browser's cache of pages
    addEventListener("online", () => void this.models.refresh());
  }

  get talk(): Talk | null {
    return this.library.open.value;
  }

  /** The replies that are being made in the conversation shown, here or in another tab. */
  private runningReplies(): string[] {
    const running = this.writer.running.value;
    const elsewhere = this.library.elsewhere.value;
    const { talk } = this;
    const shown = talk?.path.value.flatMap((id) => talk.roundOf(id)) ?? [];
    return shown.filter((id) => running.has(id) || elsewhere.has(id));
  }

  /** The first of them, if any. */
  runningReply(): string | null {
    return this.runningReplies()[0] ?? null;
  }

  /** Show a conversation: its end, a message of it, or where `sought` is first said, be that in another branch. */
  async show(id: string, { message, sought = "" }: { message?: string; sought?: string } = {}): Promise<void> {
    this.leave();
    if (!(await this.library.show(id))) {
      this.view.tell({ text: t.problem.notHere });
      return;
    }
    const talk = this.talk!;
    const says = (each: Message) => plainText(each).toLocaleLowerCase().includes(sought.toLocaleLowerCase());
    const all = talk.all();
    const found = message ?? (sought === "" ? undefined : (talk.shown().find(says) ?? [...all.values()].find(says))?.id);
    if (found === undefined || !all.has(found)) {
      return;
    }
    const shown = new Set(talk.path.peek());
    pathTo(all, found).forEach((each) => shown.has(each.id) || talk.choose(each.id));
    this.view.target.value = { message: found, sought };
  }

  showNew(): void {
    this.leave();
    this.library.showNew();
  }

  private leave(): void {
    this.view.drawer.value = false;
    this.view.editing.value = null;
    this.view.promptOf.value = null;
    this.view.target.value = null;
  }

  setSettings(change: { [Name in keyof Settings]: Settings[Name] | undefined }): void {
    const settings = Object.fromEntries(
      Object.entries({ ...this.settings.peek(), ...change }).filter(([, value]) => value !== undefined),
    ) as Settings;
    if (change.model) {
      lastModel.value = change.model;
    }
    if (this.talk) {
      this.talk.setSettings(settings);
    } else {
      this.library.draft.value = settings;
    }
  }

  /** Take over these settings, and no others; the model stays. */
  replaceSettings(settings: Settings): void {
    const unset = Object.keys(this.settings.peek()).flatMap((name) => (name === "model" ? [] : [[name, undefined]]));
    this.setSettings({ ...Object.fromEntries(unset), ...settings });
  }

  /** Say `text` at the end of the conversation shown, or begin one with it. */
  send(text: string): void {
    const talk = this.talk ?? this.library.begin(text);
    void navigator.storage?.persist?.().catch(() => false);
    this.writer.ask(talk, talk.path.value.at(-1) ?? null, text);
  }

  /** Answer for the tools that a reply called. */
  answerCalls(reply: Reply, results: NonNullable<UserMessage["results"]>): void {
    if (this.talk) {
      this.writer.ask(this.talk, reply.id, results.map(({ text }) => text).join("\n"), results);
      messageField()?.focus();
    }
  }

  /** Say `text` once the reply that is being written is there. */
  queue(text: string): void {
    const id = this.talk!.id;
    const before = this.queued.peek().get(id);
    this.queued.value = new Map(this.queued.peek()).set(id, before === undefined ? text : `${before}\n\n${text}`);
  }

  /** Put what is to be said next back into the message field. */
  unqueue(conversation: string): void {
    const text = this.takeQueued(conversation);
    const draft = this.drafts.of(conversation);
    this.drafts.set(conversation, { ...draft, text: [text, draft.text].filter((piece) => piece !== "").join("\n\n") });
  }

  private takeQueued(conversation: string): string {
    const queued = new Map(this.queued.peek());
    const text = queued.get(conversation) ?? "";
    queued.delete(conversation);
    this.queued.value = queued;
    return text;
  }

  /** What to say to a reply that broke off a person decides. */
  private sayQueued(talk: Talk, text: string): void {
    const last = talk.shown().at(-1);
    if (last?.role === "assistant" && (last.state === "done" || last.state === "cut")) {
      this.takeQueued(talk.id);
      this.send(text);
    } else {
      this.unqueue(talk.id);
    }
  }

  /** Let these files go along with the message that is being written, if they are texts. */
  async attach(files: readonly File[]): Promise<void> {
    const conversation = this.talk?.id ?? "";
    const read = await Promise.all(files.map(readTextFile));
    const texts = read.flatMap((text, index) => (text === null ? [] : [{ name: files[index]!.name, text }]));
    const draft = this.drafts.of(conversation);
    this.drafts.set(conversation, { ...draft, pasted: [...draft.pasted, ...texts] });
    const refused = files.filter((_, index) => read[index] === null).map(({ name }) => name);
    if (refused.length > 0) {
      this.view.tell({ text: t.composer.textFilesOnly(t.format.list(refused)) });
    }
  }

  async chooseAttachments(): Promise<void> {
    await this.attach(await chooseFiles(""));
    messageField()?.focus();
  }

  /** Say `text` in the place of an earlier message, as a branch. */
  sendInstead(message: UserMessage, text: string): void {
    this.view.editing.value = null;
    if (this.talk) {
      this.writer.stopAll(this.talk);
      this.writer.ask(this.talk, message.parent, text);
    }
  }

  /** Another reply to the same message, as a branch; without an id, in the place of the last reply shown. */
  regenerate(id = this.lastReply()?.id): void {
    if (this.talk && id) {
      this.writer.stopAll(this.talk);
      const reply = this.writer.answer(this.talk, this.talk.reply(id).parent);
      focusWhenLost(() => messageElement(reply));
    }
  }

  /** Have a reply say `text`, as a branch; `goesOn`: the model goes on from there. */
  rewrite(id: string, text: string, goesOn: boolean): void {
    this.view.editing.value = null;
    if (this.talk) {
      this.writer.stopAll(this.talk);
      const reply = this.writer.rewrite(this.talk, id, text, goesOn);
      focusWhenLost(() => messageElement(reply));
    }
  }

  /** Say what one thinks of a reply; saying it again takes it back. */
  rate(reply: Reply, rating: 1 | -1): void {
    this.talk?.update(reply.id, { rating: reply.rating === rating ? undefined : rating } as Partial<Reply>);
    this.talk?.save(reply.id);
  }

  /** Of the replies that stand side by side with `id`, go on from it. */
  goOnFrom(id: string): void {
    this.talk?.choose(id);
  }

  resume(id = this.lastReply()?.id): void {
    if (this.talk && id && this.canResume(this.talk.reply(id))) {
      this.writer.resume(this.talk, id);
      focusWhenLost(() => messageElement(id)); // the button for it goes away
    }
  }

  /** Whether a reply can go on where it ended: it is unfinished, and there is room, or can be made by itself. */
  canResume(reply: Reply): boolean {
    const isRefused = reply.problem?.kind === "context";
    const makesRoom = () => !this.settings.value.keepWhole && this.sawOlderTurns(reply);
    return isUnfinished(reply) && !isRefused && (!this.isContextFull(reply) || makesRoom());
  }

  /** Whether a reply took the last of what the model, or the one chosen since, can see at once. */
  isContextFull(reply: Reply): boolean {
    const { value: settings } = this.settings;
    const model = reply.asked === undefined ? {} : { model: reply.asked };
    return isContextFull(reply, this.models.contextLength({ ...settings, ...model }));
  }

  /** Whether the model saw turns before that of a reply, which could be left out. */
  sawOlderTurns(reply: Reply): boolean {
    return this.talk !== null && sawOlderTurns(reply, pathTo(this.talk.all(), reply.parent));
  }

  /** From now on leave out the oldest turns, and make or go on with the reply that had no room. */
  leaveOutOldest(reply: Reply): void {
    this.setSettings({ keepWhole: undefined });
    if (this.talk && isUnfinished(reply)) {
      this.writer.resume(this.talk, reply.id);
      focusWhenLost(() => messageElement(reply.id));
    } else {
      this.retry(reply.id);
    }
  }

  /** Make a failed reply anew: in its place if it holds nothing, else as a branch. */
  retry(id: string): void {
    if (this.talk && isEmpty(this.talk.reply(id))) {
      this.writer.retry(this.talk, id);
      focusWhenLost(() => messageElement(id));
    } else {
      this.regenerate(id);
    }
  }

  /** Go on from another token than the model chose, as a branch that is looked into as its source is. */
  branch(id: string, index: number, alternative: Alternative): void {
    if (this.talk) {
      this.writer.stopAll(this.talk);
      const branch = this.writer.branch(this.talk, id, index, alternative);
      if (this.view.showsTokens(id) !== this.view.showsTokens(branch)) {
        this.view.toggleTokens(branch);
      }
      focusWhenLost(() => messageElement(branch)?.querySelector<HTMLElement>(`[data-index="${index}"]`));
    }
  }

  stop(): boolean {
    const running = this.runningReplies();
    for (const id of running) {
      if (this.writer.running.peek().has(id)) {
        this.writer.stop(id);
        focusWhenLost(() => messageElement(id));
      } else {
        this.library.stopElsewhere(id);
      }
    }
    return running.length > 0;
  }

  lastReply(): Reply | null {
    return (this.talk?.shown().findLast((message) => message.role === "assistant") as Reply | undefined) ?? null;
  }

  /** Edit the last message the person sent. Returns whether there is one. */
  editLast(): boolean {
    const last = this.talk?.shown().findLast((message) => message.role === "user" && message.results === undefined);
    this.view.editing.value = last?.id ?? null;
    return last !== undefined;
  }

  async copy(text: string): Promise<void> {
    const isCopied = await copyText(text);
    this.view.tell({ text: isCopied ? t.common.copied : t.common.notCopied });
  }

  /** Copy the address at which a message of the conversation shown is, in this browser. */
  async copyLink(id: string): Promise<void> {
    await this.copy(`${location.href.replace(/#.*/, "")}#/c/${this.talk?.id}/${id}`);
  }

  async copyLast(): Promise<void> {
    const last = this.lastReply();
    if (last) {
      await this.copy(plainText(last));
    }
  }

  deleteMessage(id: string): void {
    const { talk } = this;
    if (talk) {
      this.writer.stopAll(talk);
      const at = talk.path.peek().indexOf(id);
      const bringBack = talk.remove(id);
      focusWhenLost(() => messageElement(talk.path.peek()[at] ?? talk.path.peek()[at - 1]) ?? messageField());
      const undo = () => {
        bringBack();
        focusWhenLost(() => messageElement(id));
      };
      this.view.tell({ text: t.message.deleted, action: { label: t.common.undo, run: undo } });
    }
  }

  async deleteConversations(ids: readonly string[]): Promise<void> {
    const open = this.talk && ids.includes(this.talk.id) ? this.talk : null;
    if (open) {
      this.writer.stopAll(open);
    }
    const at = this.library.list.peek().findIndex((conversation) => conversation.id === ids[0]);
    const bringBack = await this.library.remove(ids);
    this.view.selected.value = null;
    const next = () => this.library.list.peek()[at] ?? this.library.list.peek().at(-1);
    focusWhenLost(() => entryElement(next()?.id) ?? messageField());
    const undo = async () => {
      await bringBack();
      if (open) {
        await this.show(open.id);
      }
      focusWhenLost(() => entryElement(ids[0]) ?? messageField());
    };
    this.view.tell({ text: t.files.conversationDeleted(ids.length), action: { label: t.common.undo, run: () => void undo() } });
  }

  /** Hand out a conversation, by default the one shown, as a file. */
  async exportAs(format: Format, id = this.talk?.id): Promise<void> {
    const stored = id === undefined ? null : await this.library.stored(id);
    if (stored) {
      exportConversation(stored, format);
    } else {
      this.view.tell({ text: t.files.nothingToExport });
    }
  }

  /** Hand out conversations, by default all, as one file. */
  async exportAll(ids?: ReadonlySet<string>): Promise<void> {
    exportAll((await this.library.everything()).filter(({ conversation: { id } }) => ids?.has(id) ?? true));
  }

  /** Let the person choose files, and take in the conversations in them. */
  async importFiles(): Promise<void> {
    const { conversations, leftOut } = await chooseConversations();
    const total = conversations.length;
    if (total > 0) {
      await this.library.restore(conversations, (done) => {
        this.view.tell({ text: t.files.importing(done, total) });
      });
      const newest = conversations.reduce((a, b) => (b.conversation.updatedAt > a.conversation.updatedAt ? b : a));
      await this.show(newest.conversation.id);
    }
    const taken = total === 0 ? [] : [t.files.imported(total)];
    if (leftOut.length > 0 || total > 0) {
      this.view.tell({ text: [...taken, ...saidOf(leftOut, total === 0)].join(" ") });
    }
  }
}

const MOST_SAID = 3;

/** What an import left out, in a sentence. */
function saidOf(leftOut: readonly string[], isAll: boolean): string[] {
  if (leftOut.length === 0) {
    return [];
  }
  const said = leftOut.slice(0, MOST_SAID).map((what) => what.replace(/[.。]$/, ""));
  return [t.files.leftOut(said, Math.max(0, leftOut.length - MOST_SAID), isAll)];
}

const WorkbenchContext = createContext<Workbench | null>(null);
export const WorkbenchProvider = WorkbenchContext.Provider;

export function useWorkbench(): Workbench {
  return useContext(WorkbenchContext)!;
}
