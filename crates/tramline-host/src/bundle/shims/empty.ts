// Types only: nothing of it exists at run time.
export {};
