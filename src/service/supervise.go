package service

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/keeper"
)

const (
	// longLife is how long a worker must have served to be started again at once
	// when it dies.
	longLife   = time.Second
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
	// workerStop is how long a worker may take to stop; less than stopWait.
	workerStop = 30 * time.Second
	// orphanWait is how long those who work in the mounts wait for a worker. Then
	// they get errors.
	orphanWait = 30 * time.Second
	// servingWait is how long a worker may take to serve what it is given.
	servingWait = 15 * time.Second
	// pingEvery is how often a worker with a keeper is asked for a sign of life, and
	// maxUnanswered how often in vain before it is killed. That is counted, not
	// timed: the machine itself may have slept.
	pingEvery     = 5 * time.Second
	maxUnanswered = 4
	// trial is how long a new version must live not to be taken back.
	trial = 10 * time.Second
)

// supervisor keeps a worker running, and what outlives workers.
type supervisor struct {
	s       *Service
	pid     *pidFile
	notify  *notifySocket
	ready   <-chan struct{} // a worker is
	signals chan os.Signal
	asked   <-chan request
	keeper  *keeper.Keeper // nil: what a worker serves ends with it
	news    keeper.News

	good     *program // what workers run
	before   *program // what they ran before the last upgrade; nil: nothing to go back to
	upgraded time.Time

	w        *worker
	wasReady bool
	alone    time.Time // since when no worker has served for long; zero: one does
}

// supervise keeps a worker running until it is told to stop. A first worker
// that ends before it is ready is not started again: whoever started it sees
// why.
func (s *Service) supervise() (int, error) {
	pid, err := takePidFile(s.PidFile)
	if err != nil {
		return exitFailed, err
	}
	defer pid.release()
	notify, err := listenNotify(s.PidFile + ".notify")
	if err != nil {
		return exitFailed, err
	}
	defer notify.Close()
	v := &supervisor{s: s, pid: pid, notify: notify, ready: notify.states("READY=1"), signals: make(chan os.Signal, 8)}
	path, err := s.program()
	if err != nil {
		return exitFailed, err
	}
	if v.good, err = openProgram(path); err != nil {
		return exitFailed, err
	}
	if s.Worker != "" {
		v.keeper, v.news = keeper.New(), keeper.News{PID: os.Getpid(), Version: s.Version}
		d, err := openDoor(s.door())
		if err != nil {
			return exitFailed, err
		}
		defer d.Close()
		v.asked = d.asked
	}
	signal.Notify(v.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	// The worker is to stop when the thread that started it ends: that must be
	// this process' end.
	runtime.LockOSThread()
	return v.run()
}

func (v *supervisor) say(format string, args ...any) {
	fmt.Fprintf(v.s.Stderr, v.s.Name+": "+format+"\n", args...)
}

// run starts workers until somebody wants no more of them.
func (v *supervisor) run() (int, error) {
	for pause := time.Duration(0); ; {
		if err := v.begin(); err != nil {
			if !v.wasReady {
				return exitFailed, err
			}
			// For want of processes, memory or descriptors: that may pass, and who works
			// in the mounts waits for it.
			pause = min(max(4*pause, firstPause), orphanWait/6)
			v.say("can't start a worker: %v; trying again in %v", err, pause)
			if stop := v.rest(pause); stop {
				return exitOK, v.leave()
			}
			continue
		}
		if stop := v.watch(); stop {
			// One that had to be killed leaves its mounts.
			code := v.w.stop()
			return code, v.leave()
		}
		w := v.w
		w.drain()
		switch {
		case w.code() == 0:
			return exitOK, v.leave() // somebody stopped the worker itself
		case !v.wasReady:
			return w.code(), fmt.Errorf("the worker ended before it was ready (%s)", w.fate())
		}
		if w.settled() {
			pause = 0
		}
		v.died(w, pause)
		if stop := v.rest(pause); stop {
			return exitOK, v.leave()
		}
		pause = min(max(4*pause, firstPause), lastPause)
	}
}

// begin starts a worker and gives it what there is.
func (v *supervisor) begin() error {
	w, err := v.start(v.good)
	if err != nil {
		return err
	}
	v.w = w
	if w.line != nil {
		w.line.Hand(v.news)
	}
	return nil
}

// died takes note of a worker's end.
func (v *supervisor) died(w *worker, pause time.Duration) {
	when := "at once"
	if pause > 0 {
		when = fmt.Sprintf("in %v", pause)
	}
	v.say("the worker died (%s); starting it again %s", w.fate(), when)
	v.news.Restarts++
	v.news.Last, v.news.LastAt = w.fate(), time.Now()
	if v.alone.IsZero() || w.settled() {
		v.alone = time.Now()
	}
	if v.before != nil && time.Since(v.upgraded) < trial {
		v.say("it was the new version: going back to the one before")
		v.good.close()
		v.good, v.before = v.before, nil
	}
}

// leave ends what outlives workers.
func (v *supervisor) leave() error {
	if v.keeper != nil {
		v.keeper.Abandon() // a path may lead through a mount that nobody serves
	}
	return v.s.clear()
}

// watch returns when the worker has ended, or is to be stopped.
func (v *supervisor) watch() (stop bool) {
	said := v.w.said()
	for {
		tick := time.After(pingEvery)
		if !v.alone.IsZero() || v.w.up.IsZero() {
			tick = time.After(firstPause)
		}
		select {
		case <-v.ready:
			if !v.wasReady {
				v.passOn("READY=1")
			}
			v.wasReady = true
			if v.keeper == nil {
				v.w.up = time.Now()
			}
		case word, ok := <-said:
			switch {
			case !ok:
				said = nil
			case word.Alive:
				v.w.unanswered = 0
			case word.Serving:
				v.w.up = time.Now()
				if v.news.Restarts > 0 {
					v.say("a worker serves, %v after it was started", v.w.up.Sub(v.w.began).Round(time.Millisecond))
				}
			}
		case sig := <-v.signals:
			if sig != syscall.SIGHUP {
				return true
			}
			v.w.signal(sig)
		case r := <-v.asked:
			w := v.w
			r.answer <- v.serve(r.word)
			if v.w != w {
				said = v.w.said()
			}
		case <-tick:
			if dead := v.look(); dead {
				return false
			}
		case <-v.w.ended:
			return false
		}
	}
}

// look ends what takes too long. It is true if that is the worker.
func (v *supervisor) look() (dead bool) {
	if v.w.settled() {
		v.alone = time.Time{}
	}
	v.release()
	if v.keeper == nil {
		return false
	}
	if v.w.up.IsZero() {
		if v.alone.IsZero() || len(v.keeper.Paths()) == 0 || time.Since(v.w.began) < servingWait {
			return false
		}
		v.say("the worker does not serve the mounts within %v: killing it", servingWait)
		v.w.kill()
		return true
	}
	if time.Since(v.w.pinged) < pingEvery {
		return false
	}
	if v.w.unanswered >= maxUnanswered {
		v.say("the worker has not answered %d times: killing it", v.w.unanswered)
		v.w.kill()
		return true
	}
	v.w.pinged = time.Now()
	v.w.unanswered++
	v.w.line.Ping() // where that fails it has ended
	if os.Getenv("WATCHDOG_USEC") != "" {
		v.passOn("WATCHDOG=1")
	}
	return false
}

// release lets those who wait for a worker go, with errors, when none came.
func (v *supervisor) release() {
	if v.keeper == nil || v.alone.IsZero() || time.Since(v.alone) < orphanWait || len(v.keeper.Paths()) == 0 {
		return
	}
	v.say("no worker has served for %v: whoever waits for the mounts gets errors, and they are made afresh", orphanWait)
	v.keeper.Abandon()
}

// rest waits before another worker is started. It is true if none is to be.
func (v *supervisor) rest(pause time.Duration) (stop bool) {
	for again := time.After(pause); ; {
		select {
		case <-again:
			return false
		case <-time.After(firstPause):
			v.release()
		case sig := <-v.signals:
			if sig != syscall.SIGHUP {
				return true
			}
		case r := <-v.asked:
			// What can't live may have been mended.
			r.answer <- v.adopt()
			return false
		}
	}
}

// passOn tells whoever waits for this process what the worker said.
func (v *supervisor) passOn(state string) {
	path := os.Getenv(notifyEnv)
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state + "\n"))
		conn.Close()
	}
	if err != nil {
		v.say("can't pass on that the worker is ready: %v", err)
	}
}
