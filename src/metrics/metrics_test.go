package metrics

import "testing"

func TestText(t *testing.T) {
	var m Text
	m.One("start_seconds", Gauge, "When it began.", 1.5)
	hits := m.Many("hits_total", Counter, "What was there.")
	hits(7, "id", `odd "id" \`+"\n", "tier", "disk")
	hits(int64(8), "id", "", "tier", "ledis")
	up := m.Many("up", Gauge, "Whether it is up.")
	up(true, "mount", "/a")
	up(false, "mount", "/b")
	want := `# HELP start_seconds When it began.
# TYPE start_seconds gauge
start_seconds 1.5
# HELP hits_total What was there.
# TYPE hits_total counter
hits_total{id="odd \"id\" \\\n",tier="disk"} 7
hits_total{id="",tier="ledis"} 8
# HELP up Whether it is up.
# TYPE up gauge
up{mount="/a"} 1
up{mount="/b"} 0
`
	if got := string(m.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
