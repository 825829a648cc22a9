package serve

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxEvent bounds one server-sent event.
const maxEvent = 16 << 20

var errEventTooLong = fmt.Errorf("a server-sent event is longer than %d MiB", maxEvent>>20)

// event is one server-sent event: its data lines joined by "\n".
type event struct {
	name string // "" = message
	data []byte // valid until the next call of next
}

// eventReader splits a text/event-stream (WHATWG HTML, §9.2) into events. Lines end
// with LF or CRLF; no server of this kind sends the standard's lone CR, and
// looking for it would hold back an event until the next byte.
type eventReader struct {
	r     *bufio.Reader
	line  []byte
	data  []byte
	begun bool
}

func newEventReader(r io.Reader) *eventReader {
	return &eventReader{r: bufio.NewReaderSize(r, 16<<10)}
}

// next returns the next event that has data. At the end of the stream it returns io.EOF;
// an event without its closing blank line is lost, as the standard says.
func (e *eventReader) next() (event, error) {
	var ev event
	hasData := false
	e.data = e.data[:0]
	for {
		line, err := e.readLine()
		if err != nil {
			return event{}, err
		}
		if len(line) == 0 {
			if hasData {
				ev.data = e.data[:len(e.data)-1] // the last "\n"
				return ev, nil
			}
			ev.name = ""
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) { // "" is a comment
		case "data":
			hasData = true
			if len(e.data)+len(value) >= maxEvent {
				return event{}, errEventTooLong
			}
			e.data = append(append(e.data, value...), '\n')
		case "event":
			ev.name = string(value)
		}
	}
}

// readLine returns a line without its end. A line cut by the end of the stream is dropped.
func (e *eventReader) readLine() ([]byte, error) {
	e.line = e.line[:0]
	for {
		part, err := e.r.ReadSlice('\n')
		if len(e.line)+len(part) > maxEvent {
			return nil, errEventTooLong
		}
		e.line = append(e.line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, err
		}
		line := bytes.TrimSuffix(bytes.TrimSuffix(e.line, []byte("\n")), []byte("\r"))
		if !e.begun {
			e.begun = true
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		return line, nil
	}
}
