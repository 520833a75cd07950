// --- log frames -------------------------------------------------------------------------------------------------

// A frame begins with a line end, so that text the function wrote without one cannot swallow it.
function frame(level: string, message: string) {
  const { runId, requestId } = contextOf(currentCall());
  const text = message.length > MESSAGE_MAX ? slice(message, 0, MESSAGE_MAX) + "… (cut)" : message;
  // only strings and null go to stringify, so no toJSON of the function is ever asked
  const line = "\n" + nonce + "[" + stringify(level) + "," + stringify(runId) + "," + stringify(requestId) + "," +
    stringify(text) + "]\n";
  let bytes = encode(line);
  while (bytes.byteLength > 0) {
    bytes = subarray(bytes, writeStderr(bytes));
  }
}

function describe(error: unknown): string {
  try {
    return error instanceof Error ? inspect(error) : String(error);
  } catch {
    return "an error that cannot be shown";
  }
}

function installConsole() {
  let indent = "";
  const counts = new Map<string, number>();
  const timers = new Map<string, number>();
  const say = (level: string, args: unknown[]) => {
    let text: string;
    try {
      text = inspectArgs(args, { depth: 6, colors: false });
    } catch (error) {
      text = "cannot format this entry: " + describe(error);
    }
    frame(level, indent === "" ? text : indent + text.replaceAll("\n", "\n" + indent));
  };
  const passed = (label: string) => {
    const since = timers.get(label);
    return since === undefined ? null : `${label}: ${(performance.now() - since).toFixed(3)}ms`;
  };
  const methods: Record<string, (...args: any[]) => void> = {
    log: (...args) => say("info", args),
    info: (...args) => say("info", args),
    debug: (...args) => say("debug", args),
    warn: (...args) => say("warn", args),
    error: (...args) => say("error", args),
    dir: (item, options) => say("info", [inspect(item, options)]),
    dirxml: (...args) => say("info", args),
    table: (data) => say("info", [data]),
    trace: (...args) => say("debug", [new Error(inspectArgs(args, { colors: false })).stack]),
    assert: (ok, ...args) => {
      if (!ok) say("error", ["Assertion failed", ...args]);
    },
    count: (label = "default") => {
      counts.set(label, (counts.get(label) ?? 0) + 1);
      say("info", [`${label}: ${counts.get(label)}`]);
    },
    countReset: (label = "default") => void counts.delete(label),
    time: (label = "default") => void timers.set(label, performance.now()),
    timeLog: (label = "default", ...args) => say("info", [passed(label) ?? `no timer ${label}`, ...args]),
    timeEnd: (label = "default") => {
      say("info", [passed(label) ?? `no timer ${label}`]);
      timers.delete(label);
    },
    group: (...args) => {
      if (args.length > 0) say("info", args);
      indent += "  ";
    },
    groupEnd: () => {
      indent = indent.slice(2);
    },
    clear: () => {},
  };
  methods.groupCollapsed = methods.group;
  for (const [name, value] of Object.entries(methods)) {
    define(console, name, { value, writable: true, configurable: true, enumerable: true });
  }
}

