// Numbers and states as people read them.

const STATES = {
  PENDING: ["Waiting", "wait"],
  RUNNING: ["Being made", "run"],
  CANCELLING: ["Stopping", "wait"],
  SUCCEEDED: ["Done", "good"],
  FAILED: ["Failed", "bad"],
  CANCELLED: ["Cancelled", "idle"],
  SUSPENDED: ["Suspended", "wait"],
};

/** PENDING, RUNNING and so on; values that a newer server may send stay as they are. */
export const stateOf = (generation) => generation.state.replace("GENERATION_STATE_", "");

/** A state's name for people and the tone of its chip. */
export const stateWords = (generation) => STATES[stateOf(generation)] ?? [stateOf(generation), "idle"];

export const isOver = (generation) => ["SUCCEEDED", "FAILED", "CANCELLED"].includes(stateOf(generation));

/** Frames a second. */
export const rateOf = ({ resolved_spec: { frame_rate: rate } }) => rate.num / rate.den;

/** 4 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds) {
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  const minutes = Math.floor((whole % 3600) / 60);
  return `${Math.floor(whole / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
}

/** 0:07.5 for a place in a video. */
export function clock(seconds) {
  const tenths = Math.floor(seconds * 10 + 1e-6);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}

/** 418 MB, 25.3 GB. */
export function bytes(count) {
  for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (count >= size) return `${(count / size).toFixed(count / size < 10 ? 1 : 0)} ${unit}`;
  }
  return `${count} bytes`;
}

export const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

const WHY_AGAIN = {
  WORKER_LOST: " It goes on when the ranks are back.",
  PREEMPTED: " Another one went first.",
  SERVER_RESTARTED: " The server was restarted.",
};

/** What a generation does now, in a sentence. */
export function progressWords(generation) {
  const { progress, error, state_reason: reason } = generation;
  const frames = Number(progress.frame_count);
  const made = Number(progress.completed_frame_count);
  const left = generation.expected_seconds;
  const expected = left === null || left === undefined ? "" : `, about ${duration(left)} left`;
  switch (stateOf(generation)) {
    case "PENDING": {
      const ahead = progress.queue_position;
      const place = ahead ? `Waiting behind ${plural(ahead, "other")}.` : "Next in the queue.";
      return `${place}${WHY_AGAIN[reason] ?? ""}`;
    }
    case "RUNNING":
      if (made > 0 || progress.stage === "GENERATION_STAGE_DECODE") return `Decoding, frame ${made} of ${frames}`;
      if (progress.stage === "GENERATION_STAGE_DENOISE")
        return `Denoising, step ${progress.completed_step_count} of ${progress.step_count}${expected}`;
      return progress.stage === "GENERATION_STAGE_TEXT" ? "Reading the prompt" : "Starting";
    case "CANCELLING":
      return "Stopping after this step";
    case "SUCCEEDED":
      return `${plural(frames, "frame")} in ${duration(secondsBetween(generation.start_time, generation.end_time))}`;
    case "FAILED":
      return `Failed: ${error?.message ?? reason}`;
    case "CANCELLED":
      return made ? `Cancelled with ${made} of ${frames} frames made` : "Cancelled";
    default:
      return reason === "DISK_FULL" ? "Suspended until there is room on the disk" : `Suspended: ${reason}`;
  }
}

/** The same in a few words, for a list. */
export function shortWords(generation) {
  const { progress } = generation;
  if (stateOf(generation) !== "RUNNING") return progressWords(generation);
  const { completed_frame_count: frames, completed_step_count: steps } = progress;
  if (Number(frames)) return `frame ${frames} of ${progress.frame_count}`;
  return steps ? `step ${steps} of ${progress.step_count}` : "starting";
}

/** A solver's own name. */
export const solverWords = (name) => SOLVERS[name] ?? name;

const SOLVERS = {
  SOLVER_DDIM: "DDIM",
  SOLVER_DPM_SOLVER_PP_2M: "DPM-Solver++",
  SOLVER_FLOW_EULER: "Euler (flow)",
};

/** The share that is done, steps and frames each taking their part: [0, 1]. */
export function shareDone(generation) {
  const { progress } = generation;
  if (stateOf(generation) === "SUCCEEDED") return 1;
  const steps = progress.step_count ? progress.completed_step_count / progress.step_count : 0;
  const frames = Number(progress.completed_frame_count) / Math.max(1, Number(progress.frame_count));
  return 0.8 * steps + 0.2 * frames;
}

/** Seconds from one time stamp to another; 0 when one of them is missing. */
export const secondsBetween = (from, to) => (from && to ? Math.max(0, (Date.parse(to) - Date.parse(from)) / 1000) : 0);

/** just now, 5 min ago, 3 h ago, or the date. */
export function ago(stamp, now) {
  const seconds = (now - Date.parse(stamp)) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(stamp).toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}
