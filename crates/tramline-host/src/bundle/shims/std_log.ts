// Levels of `console` take the place of handlers: the function's log has them.
type Said = string | (() => unknown) | unknown;
const say = (write: (...args: unknown[]) => void) => (message: Said, ...args: unknown[]) => {
  const value = typeof message === "function" ? message() : message;
  write(value, ...args);
  return value;
};
export const debug = say(console.debug), info = say(console.info), warn = say(console.warn);
export const warning = warn, error = say(console.error), critical = error;
const logger = { debug, info, warn, warning, error, critical };
export const getLogger = (_name?: string) => logger;
export const setup = (_config: unknown): void => {};
class Handler {}
export { Handler as BaseHandler, Handler as ConsoleHandler };
export const handlers = { BaseHandler: Handler, ConsoleHandler: Handler };
