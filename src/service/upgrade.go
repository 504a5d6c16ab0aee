package service

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/aysfs/aysfs/src/keeper"
)

const (
	// standbyWait is how long a new version may take to read its config.
	standbyWait = 10 * time.Second
	// releaseWait is how long the old one may take to let go.
	releaseWait = 15 * time.Second
	// askWait is how long an answer to upgrade may take: more than all of it.
	askWait = 90 * time.Second
)

var errStopping = errors.New("it is being stopped")

// serve does what somebody asked for, and returns the answer: a word, or a
// reason why not after "failed: ".
func (v *supervisor) serve(word string) string {
	switch {
	case word == "reload" && v.good.there():
		v.w.signal(syscall.SIGHUP)
		return "reloaded"
	case word != "reload" && word != "upgrade":
		return fmt.Sprintf("failed: %q is not understood by this supervisor", word)
	}
	if err := v.upgrade(); err != nil {
		v.say("not upgraded: %v", err)
		return "failed: " + err.Error()
	}
	v.say("upgraded: process %d serves", v.w.cmd.Process.Pid)
	return "upgraded"
}

// adopt has the next worker run what is on the disk.
func (v *supervisor) adopt() string {
	p, err := openProgram(v.good.path)
	if err != nil {
		return "failed: " + err.Error()
	}
	v.good.close()
	v.good = p
	return "started"
}

// upgrade replaces the worker by one that runs what is on the disk. The new one
// reads its config first; then the old one lets go of all and ends; then the new one
// takes it. Where that fails, the version before goes on.
func (v *supervisor) upgrade() error {
	p, err := openProgram(v.good.path)
	if err != nil {
		return err
	}
	next, err := v.start(p)
	if err != nil {
		p.close()
		return fmt.Errorf("%w; the old version goes on", err)
	}
	giveUp := func(err error) error {
		next.kill()
		p.close()
		return fmt.Errorf("%w; the old version goes on", err)
	}
	old := v.w
	if err := v.await(next, old, standbyWait, func(w keeper.Word) bool { return w.Standby }); err != nil {
		return giveUp(fmt.Errorf("the new version is not fit to serve: %w", err))
	}
	if err := old.line.Release(); err != nil {
		return giveUp(err)
	}
	if err := v.released(old); err != nil {
		return giveUp(err)
	}
	v.w = next
	v.news.Upgrades++
	v.news.Last, v.news.LastAt = "upgraded", time.Now()
	next.line.Hand(v.news)
	if err := v.await(next, nil, servingWait, func(w keeper.Word) bool { return w.Serving }); err != nil {
		v.news.Upgrades--
		v.news.Last = "an upgrade that failed"
		err = giveUp(fmt.Errorf("the new version does not serve: %w", err))
		if began := v.begin(); began != nil {
			return errors.Join(err, began) // the next try comes with the worker's end
		}
		return err
	}
	next.up, v.alone = time.Now(), time.Now()
	v.before.close()
	v.before, v.good, v.upgraded = v.good, p, time.Now()
	return nil
}

// await waits until w says what is wanted, as long as the other lives.
func (v *supervisor) await(w, other *worker, within time.Duration, wanted func(keeper.Word) bool) error {
	var gone <-chan struct{}
	if other != nil {
		gone = other.ended
	}
	said, late := w.said(), time.After(within)
	for {
		select {
		case word, ok := <-said:
			if !ok {
				said = nil
			} else if wanted(word) {
				return nil
			}
		case <-w.ended:
			return fmt.Errorf("it ended (%s)", w.fate())
		case <-gone:
			return errors.New("the one that it should replace has just died")
		case <-late:
			return fmt.Errorf("it takes more than %v", within)
		case sig := <-v.signals:
			if sig != syscall.SIGHUP {
				v.signals <- sig
				return errStopping
			}
		}
	}
}

// released waits until a worker that was told to let go has ended. One that takes
// too long is killed, which loses nothing but a cache in order.
func (v *supervisor) released(w *worker) error {
	said, late := w.said(), time.After(releaseWait)
	for {
		select {
		case word, ok := <-said:
			if !ok {
				said = nil
			} else if word.Busy != "" {
				return errors.New(word.Busy)
			}
		case <-w.ended:
			w.drain()
			return nil
		case <-late:
			v.say("the worker does not let go within %v: killing it", releaseWait)
			w.kill()
			return nil
		}
	}
}

// request is what somebody asks of a supervisor.
type request struct {
	word   string
	answer chan<- string
}

// door is where a supervisor is asked: one line in, one line out, by its user
// alone.
type door struct {
	*net.UnixListener
	asked chan request
}

// door is the path of the supervisor's door.
func (s *Service) door() string { return strings.TrimSuffix(s.PidFile, ".pid") + ".keeper" }

func openDoor(path string) (*door, error) {
	os.Remove(path) // this process holds the pid file
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for upgrades: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for upgrades: %w", err)
	}
	d := &door{l, make(chan request)}
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // for want of descriptors
				time.Sleep(time.Second)
				continue
			}
			go d.answer(c)
		}
	}()
	return d, nil
}

func (d *door) answer(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(askWait))
	line, err := bufio.NewReader(io.LimitReader(c, 100)).ReadString('\n')
	if err != nil {
		return
	}
	answer := make(chan string, 1)
	d.asked <- request{strings.TrimSpace(line), answer}
	fmt.Fprintln(c, <-answer)
}

// upgrade has the supervisor replace its worker by what is on the disk now.
func (s *Service) upgrade() (int, error) {
	if s.Worker == "" {
		return exitUsage, errors.New("nothing of it outlives it: restart it")
	}
	pid, err := runningPid(s.PidFile)
	switch {
	case err != nil:
		return exitFailed, err
	case pid == 0:
		return exitNotRunning, errors.New("is not running")
	}
	return s.ask("upgrade")
}

// ask asks the supervisor.
func (s *Service) ask(word string) (int, error) {
	var before int64
	if st, err := os.Stat(s.Log); err == nil {
		before = st.Size()
	}
	c, err := net.DialTimeout("unix", s.door(), 5*time.Second)
	if err != nil {
		return exitFailed, fmt.Errorf("ask the supervisor: %w", err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(askWait))
	if _, err := fmt.Fprintln(c, word); err != nil {
		return exitFailed, fmt.Errorf("ask the supervisor: %w", err)
	}
	answer, err := bufio.NewReader(io.LimitReader(c, maxShown)).ReadString('\n')
	if err != nil {
		return exitFailed, fmt.Errorf("the supervisor does not answer: %w", err)
	}
	answer = strings.TrimSpace(answer)
	if why, failed := strings.CutPrefix(answer, "failed: "); failed {
		s.showLog(before)
		return exitFailed, fmt.Errorf("not done: %s", why)
	}
	if answer != "reloaded" {
		s.say("is %s", answer)
	}
	return exitOK, nil
}
