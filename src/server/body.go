package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// body reads the request's body. It answers itself where there is too much of it,
// or where it doesn't come.
func (c *call) body() ([]byte, bool) {
	lim := c.w.server.current.Load()
	if c.r.ContentLength > lim.maxBody {
		c.wrong(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body may have %d bytes", lim.maxBody))
		return nil, false
	}
	control := http.NewResponseController(c.w.ResponseWriter)
	_ = control.SetReadDeadline(time.Now().Add(lim.stall)) // bounded as the body is, as a whole
	b, err := io.ReadAll(http.MaxBytesReader(c.w.ResponseWriter, c.r.Body, lim.maxBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		c.wrong(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body may have %d bytes", tooLarge.Limit))
		return nil, false
	}
	if err != nil {
		// The deadline stays, or the server would wait for the rest.
		c.w.Header().Set("Connection", "close")
		c.wrong(http.StatusBadRequest, "the body can't be read")
		return nil, false
	}
	_ = control.SetReadDeadline(time.Time{}) // the server looks by reading whether the client is still there
	return b, true
}

// maxKeys is how many keys an announcement may have.
const maxKeys = 256

// values reads a body that is JSON or a form as a flat map: what is below a key
// has it in its name, with a dot. Lists and null are left out.
func (c *call) values() (map[string]string, bool) {
	b, ok := c.body()
	if !ok {
		return nil, false
	}
	v, err := parseValues(c.r.Header.Get("Content-Type"), b)
	if err != nil {
		c.wrong(http.StatusBadRequest, err.Error())
		return nil, false
	}
	return v, true
}

func parseValues(contentType string, b []byte) (map[string]string, error) {
	values := make(map[string]string)
	kind, _, err := mime.ParseMediaType(contentType)
	if contentType != "" && err != nil {
		return nil, errors.New("the content type can't be read")
	}
	text := strings.TrimSpace(string(b))
	switch {
	case text == "":
		return values, nil
	case strings.HasPrefix(text, "{"): // curl -d says that it is a form
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		var tree map[string]any
		if err := dec.Decode(&tree); err != nil {
			return nil, errors.New("the body is not a JSON object") // the error may quote a password
		}
		if _, err := dec.Token(); err != io.EOF {
			return nil, errors.New("there is something behind the JSON object")
		}
		return values, flatten(values, "", tree)
	case kind == "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(text)
		if err != nil {
			return nil, errors.New("the body is not a form")
		}
		for k, v := range form {
			if len(v) != 1 {
				return nil, errors.New("a key is there twice")
			}
			values[k] = v[0]
		}
		if len(values) > maxKeys {
			return nil, fmt.Errorf("more than %d keys", maxKeys)
		}
		return values, nil
	}
	return nil, errors.New("the body must be a JSON object, or a form")
}

func flatten(values map[string]string, prefix string, tree map[string]any) error {
	for k, v := range tree {
		key := prefix + k
		var text string
		switch v := v.(type) {
		case map[string]any:
			if strings.Count(key, ".") > 4 {
				return errors.New("the body is nested too deep")
			}
			if err := flatten(values, key+".", v); err != nil {
				return err
			}
			continue
		case string:
			text = v
		case json.Number:
			text = v.String()
		case bool:
			text = fmt.Sprint(v)
		default:
			continue
		}
		if _, twice := values[key]; twice { // as {"a.b": 1, "a": {"b": 2}} has it
			return errors.New("a key is there twice")
		}
		if values[key] = text; len(values) > maxKeys {
			return fmt.Errorf("more than %d keys", maxKeys)
		}
	}
	return nil
}
