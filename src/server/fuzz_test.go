package server

import (
	"maps"
	"path"
	"strings"
	"testing"
)

// FuzzValues lets a client announce anything. What is taken of it is the same each
// time, and names a tree, a store and a directory inside the tree.
func FuzzValues(f *testing.F) {
	f.Add("application/json", `{"ays.id":"jumpscale|x(1)","stor.name":"s","remote":"a/b","path":"/opt/x"}`)
	f.Add("application/json", `{"ays":{"id":"jumpscale|x(1)"},"ays.id":"jumpscale|y(1)","stor":{"name":"s"}}`)
	f.Add("application/json", `{"url":"http://x/","login":"l","passwd":"p","expiration":1e3}`)
	f.Add("application/json", `{"a":{"b":{"c":{"d":{"e":{"f":{"g":1}}}}}}}`)
	f.Add("application/json", `{"a":[1],"b":null,"c":true} x`)
	f.Add("application/x-www-form-urlencoded", "url=http://x/&expiration=-1&login=%00%0d%0a")
	f.Add("application/x-www-form-urlencoded", "a=1&a=2")
	f.Add("text/plain; charset", "a")
	f.Fuzz(func(t *testing.T, contentType, body string) {
		v, err := parseValues(contentType, []byte(body))
		for range 3 { // maps have no order
			again, e := parseValues(contentType, []byte(body))
			if (e == nil) != (err == nil) || err == nil && !maps.Equal(v, again) {
				t.Fatalf("%q: %v, %v, then %v, %v", body, v, err, again, e)
			}
		}
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n\x00") {
				t.Fatalf("%q", err)
			}
			return
		}
		if len(v) > maxKeys {
			t.Fatalf("%d keys", len(v))
		}
		if m, err := parseMount(v); err == nil {
			if m.Tree.Validate() != nil || m.Store == "" || strings.ContainsAny(m.Path, "\r\n\x00") || m.Remote != "" && (path.Clean("/"+m.Remote) != "/"+m.Remote) {
				t.Fatalf("%q: %+v", body, m)
			}
		}
		if told, err := parseStor(v); err == nil && (told.expiration < 0 || told.url == "") {
			t.Fatalf("%q: %+v", body, told)
		}
	})
}

// FuzzFrom reads what is kept of where a blob came from.
func FuzzFrom(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 3*len(storeID{})+1))
	f.Fuzz(func(t *testing.T, row []byte) {
		ids := parseFrom(row)
		if len(ids) > maxFrom || !strings.HasPrefix(string(row), string(formatFrom(ids))) {
			t.Fatalf("%x: %x", row, ids)
		}
	})
}
