package server

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

// parsePage returns the page's template. It escapes by where a value stands:
// names may have anything in them.
func parsePage() (*template.Template, error) {
	return template.New("page").Funcs(template.FuncMap{
		"size": humanSize, "ago": ago, "took": func(d time.Duration) string { return d.Round(time.Millisecond).String() },
	}).Parse(pageText)
}

// page is what people see. What is of a private store is there for those alone
// who may read it.
type page struct {
	ID, Version string
	Now, Since  time.Time
	Loaded      time.Time // the config in force
	ConfigError string    // why its file is not in force

	Charts  []chart
	Stores  []pageStore
	Clients []pageClient
	Total   int // clients
	Mounts  int
	Usage   []Usage
	Events  []pageEvent
}

type pageStore struct {
	Name, URL, State string
	Private, Told    bool
	Expiration       string
	Domains          int
	Hits, Absent     int64
	Failed           int64
	Bytes            int64
	Mean             time.Duration
}

type pageClient struct {
	ID, Platform, Version string
	Heard                 time.Time
	Mounts                []pageMount
	More                  int
}

type pageMount struct{ Name, Tree, Store string }

type pageEvent struct {
	At                        time.Time
	Store, What, Answer, Text string
	Took                      time.Duration
}

// How much is shown.
const (
	pageClients = 50
	pageMounts  = 20
)

func (s *Server) getPage(c *call) {
	var b bytes.Buffer
	if err := s.template.Execute(&b, s.page(c.rights)); err != nil {
		panic(err) // into memory, of what is always there
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	c.send(b.Bytes(), "")
}

func (s *Server) page(who rights) page {
	p := page{ID: s.opts.ID, Version: s.opts.Version, Now: time.Now().UTC(), Since: s.since.UTC()}
	loaded, cerr := s.configRead.get()
	p.Loaded = loaded.UTC()
	if cerr != nil {
		p.ConfigError = "see the log" // its text is not for everybody who may see the page
	}
	hits, misses := s.hits.past(), s.misses.past()
	p.Charts = []chart{
		rateChart("Hit rate", hits, misses),
		sumChart("Requests", s.asked.past(), func(n int64) string { return fmt.Sprint(n) }),
		sumChart("Sent", s.sent.past(), humanSize),
		sumChart("Failed", s.failed.past(), func(n int64) string { return fmt.Sprint(n) }),
	}
	t := s.stores.now.Load()
	for _, st := range t.ordered {
		p.Stores = append(p.Stores, s.pageStore(st, who.may(st)))
	}
	p.Total, p.Mounts = s.announced.counts()
	for _, c := range s.announced.recent(pageClients, pageMounts) {
		pc := pageClient{ID: c.ID, Platform: c.Platform, Version: c.Version, Heard: c.Heard, More: c.Count - len(c.Mounts)}
		for _, m := range c.Mounts {
			pm := pageMount{Name: m.Name, Tree: m.Tree.String(), Store: m.Store}
			if st := t.byName[m.Store]; st == nil || !who.may(st) {
				pm = pageMount{Name: m.Name, Tree: "(private)", Store: "(private)"}
			}
			pc.Mounts = append(pc.Mounts, pm)
		}
		p.Clients = append(p.Clients, pc)
	}
	p.Usage = s.usage(who)
	for _, e := range s.events.recent(who.may) {
		pe := pageEvent{At: e.at.UTC(), What: e.what, Answer: e.answer.String(), Took: e.took}
		if e.store != nil {
			pe.Store = e.store.name
		}
		if e.err != nil {
			pe.Text = oneLine(e.err.Error())
		}
		p.Events = append(p.Events, pe)
	}
	return p
}

func (s *Server) pageStore(st *stor, may bool) pageStore {
	ps := pageStore{Name: st.name, URL: "(private)", Private: st.private.Load(), Told: !st.configured, State: "not asked yet"}
	n := func(a answer) int64 { return st.trouble.counts[a].Load() }
	ps.Hits, ps.Absent, ps.Bytes = n(answerHit), n(answerAbsent), st.trouble.bytes.Load()
	all := ps.Hits + ps.Absent
	for a := range answers {
		if a.bad() {
			ps.Failed += n(a)
			all += n(a)
		}
	}
	if all > 0 {
		ps.Mean = time.Duration(st.trouble.nanos.Load() / all)
		ps.State = "up"
		if last := answer(st.trouble.last.Load()); last.bad() {
			ps.State = last.String()
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	ps.Expiration, ps.Domains = "never", len(st.domains)
	if st.expiration > 0 {
		ps.Expiration = fmt.Sprintf("%d h", st.expiration/time.Hour)
	}
	if may {
		ps.URL = st.url.Redacted()
	}
	return ps
}

// chart is a line of the last hour, a minute each.
type chart struct {
	Title, Now string
	Points     string // of an SVG polyline, 0 to 60 across and 0 to 20 down
}

func newChart(title, now string, values [hour]float64, most float64) chart {
	var b strings.Builder
	for i, v := range values {
		y := 20.0
		if most > 0 {
			y = 20 - 20*v/most
		}
		fmt.Fprintf(&b, "%d,%.1f ", i, y)
	}
	return chart{title, now, strings.TrimSpace(b.String())}
}

func sumChart(title string, values [hour]int64, show func(int64) string) chart {
	var f [hour]float64
	var sum, most int64
	for i, v := range values {
		f[i] = float64(v)
		sum, most = sum+v, max(most, v)
	}
	return newChart(title, show(sum)+" in the last hour", f, float64(most))
}

func rateChart(title string, part, rest [hour]int64) chart {
	var f [hour]float64
	var parts, all int64
	for i := range part {
		if n := part[i] + rest[i]; n > 0 {
			f[i] = float64(part[i]) / float64(n)
		}
		parts, all = parts+part[i], all+part[i]+rest[i]
	}
	now := "nothing asked for in the last hour"
	if all > 0 {
		now = fmt.Sprintf("%.1f %% of %d blobs in the last hour", 100*float64(parts)/float64(all), all)
	}
	return newChart(title, now, f, 1)
}

func humanSize(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for f >= 1024 && len(units) > 1 {
		f, units = f/1024, units[1:]
	}
	if f == float64(int64(f)) {
		return fmt.Sprintf("%d %s", int64(f), units[0])
	}
	return fmt.Sprintf("%.1f %s", f, units[0])
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h ago", int(d.Hours()))
}
