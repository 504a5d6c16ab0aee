package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"slices"
)

// How the chart is laid out, in pixels.
const (
	chartWidth  = 860
	panelWidth  = 420
	panelHead   = 34
	panelFoot   = 34
	chartFoot   = 34
	lineHeight  = 20
	nameWidth   = 104 // to the left of the axis
	figureWidth = 72  // to the right of it
)

// chartStyle makes the chart readable on what is light and on what is dark.
const chartStyle = `
text{fill:#59636e;font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
.head{font-weight:600;fill:#1f2328}.own{font-weight:600;fill:#0a7d5a}
line{stroke:#59636e;stroke-width:2}line.own{stroke:#0a7d5a;stroke-width:4}line.grid{stroke:#8c959f;stroke-opacity:.35;stroke-width:1}
circle{fill:#59636e}circle.own{fill:#0a7d5a}
@media (prefers-color-scheme:dark){
text{fill:#9198a1}.head{fill:#f0f6fc}.own{fill:#3fd6a4}
line{stroke:#9198a1}line.own{stroke:#3fd6a4}circle{fill:#9198a1}circle.own{fill:#3fd6a4}
}`

// chartPanels are the works in the chart, as people know them.
var chartPanels = []struct{ work, title string }{
	{"python", "start Python with eight imports"},
	{"find", "list every name (find)"},
	{"tar", "read every file (tar)"},
	{"big", "read one large file"},
}

// bar is a line of the chart.
type bar struct {
	name   string
	class  string
	length float64 // seconds
	figure string
}

// bars are what every file system took for a work cold, the quickest first, after
// what the reference took from its disk.
func (r *results) bars(work string) (all []bar) {
	for _, d := range r.driversSeen() {
		when, name, class := cold, d, ""
		switch d {
		case reference:
			when, name = disk, "local disk"
		case subject, profiled:
			class = "own"
		}
		samples := r.of(work, when, d)
		took, why := r.took(work, when, d)
		switch {
		case len(samples) == 0 || why == "failed":
			continue
		case why != "":
			took = samples[0].Seconds
			for _, s := range samples {
				took = max(took, s.Seconds)
			}
		default:
			why = seconds(took)
		}
		all = append(all, bar{name, class, took, why})
	}
	slices.SortStableFunc(all, func(a, b bar) int {
		switch {
		case a.name == "local disk":
			return -1
		case b.name == "local disk":
			return 1
		case a.length < b.length:
			return -1
		case a.length > b.length:
			return 1
		}
		return 0
	})
	return all
}

// chart draws how long things take cold, as SVG. Lengths are logarithms: what is
// compared differs by hundreds.
func (r *results) chart(w io.Writer) {
	var panels [][]bar
	var titles []string
	low, high, lines := math.Inf(1), 0.0, 0
	for _, p := range chartPanels {
		bars := r.bars(p.work)
		if len(bars) < 2 {
			continue
		}
		panels, titles = append(panels, bars), append(titles, p.title)
		lines = max(lines, len(bars))
		for _, b := range bars {
			low, high = min(low, b.length), max(high, b.length)
		}
	}
	height := panelHead + lines*lineHeight + panelFoot
	rows := (len(panels) + 1) / 2
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img">`+"\n", chartWidth, rows*height+chartFoot)
	title := fmt.Sprintf("Cold, over a link of %.0f ms and %.0f Mbit/s. Each line of the grid is ten times the one before.", r.Link.RoundTripMS, r.Link.Mbits)
	fmt.Fprintf(w, "<title>%s</title>\n<style>%s\n</style>\n", html.EscapeString(title), chartStyle)
	if len(panels) == 0 {
		fmt.Fprintf(w, `<text x="10" y="24">nothing was measured cold</text>`+"\n</svg>\n")
		return
	}
	// From the power of ten below the least to the most.
	from := math.Floor(math.Log10(low))
	axis := float64(panelWidth-nameWidth-figureWidth) / max(math.Log10(high)-from, 1)
	at := func(s float64) float64 { return nameWidth + (math.Log10(s)-from)*axis }
	for i, bars := range panels {
		fmt.Fprintf(w, `<g transform="translate(%d %d)">`+"\n", i%2*(chartWidth-panelWidth), i/2*height)
		fmt.Fprintf(w, `<text class="head" x="%d" y="20">%s</text>`+"\n", nameWidth, html.EscapeString(titles[i]))
		bottom := panelHead + lines*lineHeight
		for tick := from; tick <= math.Log10(high); tick++ {
			s := math.Pow(10, tick)
			fmt.Fprintf(w, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", at(s), panelHead-6, at(s), bottom)
			fmt.Fprintf(w, `<text x="%.1f" y="%d" text-anchor="middle">%g s</text>`+"\n", at(s), bottom+16, s)
		}
		for k, b := range bars {
			y := panelHead + k*lineHeight + lineHeight/2
			fmt.Fprintf(w, `<text class="%s" x="%d" y="%d" text-anchor="end">%s</text>`, b.class, nameWidth-8, y+4, html.EscapeString(b.name))
			fmt.Fprintf(w, `<line class="%s" x1="%d" y1="%d" x2="%.1f" y2="%d"/>`, b.class, nameWidth, y, at(b.length), y)
			fmt.Fprintf(w, `<circle class="%s" cx="%.1f" cy="%d" r="4"/>`, b.class, at(b.length), y)
			fmt.Fprintf(w, `<text class="%s" x="%.1f" y="%d">%s</text>`+"\n", b.class, at(b.length)+9, y+4, html.EscapeString(b.figure))
		}
		fmt.Fprintln(w, "</g>")
	}
	fmt.Fprintf(w, `<text x="%d" y="%d">%s</text>`+"\n</svg>\n", nameWidth, rows*height+chartFoot-12, html.EscapeString(title))
}
