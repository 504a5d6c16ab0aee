package server

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

func TestBadRequests(t *testing.T) {
	t.Parallel()
	st, c := newStore(t), newCache(t)
	c.tell(st, "stor")
	before := st.asked("")
	d := digest.Of(small).String()
	for _, k := range []string{
		"GET /none/", "GET /favicon.ico", "GET /x/y/z", "GET /default/" + strings.ToUpper(d), "GET /default/" + d[1:], "GET /default/" + d + "0",
		"GET /default/" + d + "/", "GET //default/" + d, "GET /default//" + d, "GET /./" + d, "GET /../etc/passwd", "GET /default/../default/" + d,
		"GET /default/%2e%2e/" + d, "GET /default%2F" + d, "GET /default/" + d + "%00", "GET /%00/" + d, "GET /Default/" + d, "GET /-x/" + d,
		"GET /" + strings.Repeat("x", 65) + "/" + d, "GET /debug/" + d, "GET /md/" + d, "GET /ays/" + d, "GET /metrics/" + d, "GET /healthz/" + d,
		"GET /default", "GET /md", "GET /md/", "GET /md/client1", "GET /md/client1/", "GET /md/client1//x", "GET /md/client1/mongodb//", "GET /md/client1/mongodb/a//b",
		"GET /md/client1/mongodb/../x", "GET /md/client1/mongodb/a%2Fb", "GET /md/client1/mongodb/%00", "GET /md/client1/mongodb/" + strings.Repeat("n", 256),
		"GET /md/client1/mongodb" + strings.Repeat("/a", 3000), "GET /md/jumpscale|x(1)/any", "GET /md/jumpscale|x(1)/any/other", "GET /md/jumpscale|x(1)/a/b/head",
		"GET /md/a|b(1)/c|d(2)/any/head", "GET /md/../jumpscale|x(1)/any/head", "GET /md/trees/jumpscale|x(1)/any/head",
		"GET /default/" + d + "?fetch=4", "GET /default/" + d + "?fetch=-1", "GET /default/" + d + "?fetch=", "GET /default/" + d + "?fetch=01", "GET /default/" + d + "?fetch=1&fetch=2",
		"GET /default/" + d + "?fetch=%zz", "GET /default/" + d + "?a;b", "GET /md/client1/mongodb/?subtree=yes",
		"PUT /default/" + d[1:], "PUT /default", "PUT /", "PUT /md/client1/mongodb/", "PUT /md/trees", "DELETE /default/" + d, "POST /default/" + d, "PATCH /default", "HEAD /default", "POST /", "POST /md/client1/mongodb/", "POST /healthz", "DELETE /ays/client/x",
		"GET /ays/client/x", "GET /ays/stor/x", "GET /ays/mount/x/y", "POST /ays", "POST /ays/", "POST /ays/other/x", "POST /ays/client", "POST /ays/client/", "POST /ays/mount/x", "POST /ays/client/x/y",
		"FOO /", "OPTIONS /",
	} {
		method, path, _ := strings.Cut(k, " ")
		r := c.do(method, path, nil)
		if r.status != 400 {
			t.Errorf("%s: %d %s", k, r.status, r.body)
			continue
		}
		if method != "HEAD" && (strings.Count(string(r.body), "\n") != 1 || len(r.body) < 10) {
			t.Errorf("%s: %q", k, r.body)
		}
	}
	if n := st.asked(""); n != before {
		t.Errorf("the store was asked %d times", n-before)
	}
}

func TestRoutes(t *testing.T) {
	d := digest.Of(small)
	tree := object.TreeName{ID: testID, RepoID: "1SdY294", Platform: "ubuntu64"}
	escaped := "/" + tree.URLPath() + "/head"
	for path, want := range map[string]request{
		"/":                                   {route: routePage},
		"/healthz":                            {route: routeHealth},
		"/metrics?x=1":                        {route: routeMetrics},
		"/default/" + d.String():              {route: routeBlob, domain: "default", digest: d},
		"/a.b_c-d/" + d.String() + "?fetch=3": {route: routeBlob, domain: "a.b_c-d", digest: d, fetch: fetchPass},
		"/md/trees":                           {route: routeTrees},
		escaped:                               {route: routeHead, tree: tree},
		"/md/jumpscale%7Cmongodb(10.1.888)/any/head": {route: routeHead, tree: object.TreeName{ID: testID}},
		"/md/client/mount":                           {route: routeListing, client: "client", mount: "mount"},
		"/md/client/mount/head":                      {route: routeListing, client: "client", mount: "mount", path: "head"},
		"/md/client/mount/a/b%20c/%C3%BC%FF/head/":   {route: routeListing, client: "client", mount: "mount", path: "a/b c/ü\xff/head"},
		"/md/client/mount/x?subtree=1&fetch=0":       {route: routeListing, client: "client", mount: "mount", path: "x", subtree: true, fetch: fetchNever},
		"/md/client/mount/x%7Cy(1)/any/head":         {route: routeListing, client: "client", mount: "mount", path: "x|y(1)/any/head"},
	} {
		if !strings.Contains(path, "fetch=") {
			want.fetch = fetchKeep
		}
		u, err := url.Parse(path)
		must(t, err)
		got, err := parseRequest(http.MethodGet, u)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", path, got, err, want)
		}
	}
}

// FuzzPaths checks that whatever a path is, it is one line of why not, or a
// request for names that are right.
func FuzzPaths(f *testing.F) {
	d := digest.Of(small).String()
	for _, s := range []string{"/", "/default/" + d, "/md/c/m/a/b", "/md/jumpscale|x(1)/any/head", "/md/r/jumpscale|x!y/p/head", "/md/trees", "/%2e%2e/", "/a%", "//", "/md/a/b/%00?subtree=1&fetch=2"} {
		f.Add(http.MethodGet, s)
	}
	f.Add(http.MethodPost, "/ays/mount/c/m")
	f.Add(http.MethodPost, "/default?fetch=2")
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		q, err := parseRequest(method, u)
		if err != nil {
			if line := oneLine(err.Error()); strings.ContainsAny(line, "\r\n\x00") {
				t.Fatalf("%q", line)
			}
			return
		}
		if q.domain != "" && object.ValidateDomain(q.domain) != nil || q.route == routeBlob && (q.domain == "" || q.digest.IsZero()) {
			t.Fatalf("%+v", q)
		}
		if q.route == routeHead && q.tree.Validate() != nil {
			t.Fatalf("%+v", q)
		}
		for name := range strings.SplitSeq(q.path, "/") {
			if q.path != "" && (name == "" || name == "." || name == ".." || strings.Contains(name, "\x00")) {
				t.Fatalf("%+v", q)
			}
		}
		if q.route == routeListing && (q.client == "" || q.mount == "" || isTreeID(q.client) || isTreeID(q.mount)) {
			t.Fatalf("%+v", q)
		}
	})
}
