// The types of wireline-hub.js.

/** Where a publication stands in its topic. Opaque. */
export type Position = string;

export interface Publication {
  /** As it was published: text, or bytes. */
  data: string | Uint8Array;
  position: Position;
}

export interface SubscribeOptions {
  /** Go on behind this position. */
  since?: Position;
  /** Begin with so many of the publications that are kept. */
  last?: number;
  onMessage?(publication: Publication): void;
  /** Something may be missing: "window", "rollback" or "lost". */
  onReset?(why: string): void;
  onJoin?(who: string): void;
  onLeave?(who: string): void;
}

export interface Subscription {
  readonly topic: string;
  /** Behind the last publication that was heard. */
  readonly position: Position | undefined;
  /** The first answer. Rejects with a HubError, such as "forbidden". */
  readonly ready: Promise<{ position: Position; recovered: boolean }>;
  unsubscribe(): void;
}

export interface HubOptions {
  /** Who this is. A function is asked before each attempt to connect. */
  token?: string | (() => string | Promise<string>);
  /** For Node without one. */
  WebSocket?: unknown;
}

export class HubError extends Error {
  readonly code: string;
  /** Worth another try. */
  readonly temporary: boolean;
}

/** A connection to a hub that comes back by itself, and goes on where it was. */
export class Hub {
  constructor(url: string, options?: HubOptions);
  readonly state: "connecting" | "open" | "closed";
  onState: (state: "connecting" | "open" | "closed") => void;
  /** What ended it, or a subscription. */
  onError: (error: HubError) => void;
  onBroadcast: (publication: Publication) => void;
  /** Something that was broadcast may have been missed. */
  onBroadcastReset: (why: string) => void;
  subscribe(topic: string, options?: SubscribeOptions): Subscription;
  /**
   * The position. Sent again after a loss, and published once; after 90 s, or with a key of less than 22 characters, it
   * is not sent again, and rejects with "unknown". At most 1,000 may wait for their answers.
   */
  publish(
    topic: string,
    data: string | ArrayBuffer | ArrayBufferView,
    options?: { key?: string; echo?: boolean },
  ): Promise<Position>;
  /** The names of those who are there. */
  presence(topic: string): Promise<string[]>;
  close(): void;
}
