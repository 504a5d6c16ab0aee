package overlay

// maxLent is how many contents are kept open for readers. Nobody says when a file
// is not read any more.
const maxLent = 128

// lend notes that a node's content was opened, to be read.
func (l *Layer) lend(n *Node) {
	n.read.Store(true)
	l.mu.Lock()
	l.lent[n] = true
	var over *Node
	if len(l.lent) > maxLent {
		for over = range l.lent {
			if over != n && l.nodes[over.path] == over {
				delete(l.lent, over)
				break
			}
		}
	}
	l.mu.Unlock()
	if over != nil && over != n {
		over.idle()
	}
}

// sweep closes contents that were not read since the last time. What others have
// replaced stays open for who reads it still: it may be had nowhere else.
func (l *Layer) sweep() {
	var idle []*Node
	l.mu.Lock()
	for n := range l.lent {
		if n.read.Swap(false) || l.nodes[n.path] != n && l.scratch[n.path] != n {
			continue
		}
		delete(l.lent, n)
		idle = append(idle, n)
	}
	l.mu.Unlock()
	for _, n := range idle {
		n.idle()
	}
}

// keepReplaced holds on to the contents of files that others have replaced and
// somebody here may have open. The change lock is held.
func (l *Layer) keepReplaced() {
	l.mu.Lock()
	replaced := l.replaced
	l.replaced = nil
	l.mu.Unlock()
	for _, n := range replaced {
		n.io.Lock()
		if n.file == nil && n.source == fromRedis {
			if f, ok := l.spool.get(n.recorded()); ok {
				l.mu.Lock()
				if l.ids[n.ID] == n {
					n.file, l.lent[n] = f, true
				} else {
					f.Close()
				}
				l.mu.Unlock()
			}
		}
		n.io.Unlock()
	}
}
