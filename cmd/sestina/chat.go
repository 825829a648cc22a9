package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"sestina"
	"sestina/chat"
	"sestina/scheduler"
)

// session is a chat on a terminal.
type session struct {
	llm      *sestina.LLM
	opt      sestina.GenerateOptions
	system   string
	messages []chat.Message // without the system message
	last     string         // summary of the last answer
	line     *term.Terminal
	colour   bool // what was drafted
}

const chatHelp = `/help           this list
/system TEXT    set the system message (empty: none) and start anew
/clear          forget the conversation
/retry          answer the last question again
/stats          figures of the last answer
/exit           leave (also Ctrl-D)
Ctrl-C stops an answer; at the prompt it leaves.`

// chat reads questions and streams answers until the user leaves.
func (f *runFlags) chat(ctx context.Context, llm *sestina.LLM, opt sestina.GenerateOptions) error {
	if llm.Template == nil {
		return fmt.Errorf("%s has no chat template: give a prompt to continue (sestina run -m … --raw \"text\")", llm.Name)
	}
	s := &session{llm: llm, opt: opt, system: f.system, colour: f.colours()}
	s.line = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{os.Stdin, os.Stdout}, ">>> ")
	note("Chat with %s. /help lists commands.", llm.Name)
	for {
		text, err := s.read()
		if errors.Is(err, io.EOF) {
			fmt.Println()
			return nil
		}
		if err != nil {
			return err
		}
		text = strings.TrimSpace(text)
		if strings.HasPrefix(text, "/") {
			if leave := s.command(text); leave {
				return nil
			}
			continue
		}
		if text != "" {
			s.messages = append(s.messages, chat.Message{Role: "user", Content: text})
			s.answer()
		}
	}
}

// read edits one line in raw mode; during answers the terminal is cooked, so
// that Ctrl-C is a signal.
func (s *session) read() (string, error) {
	fd := int(os.Stdin.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer term.Restore(fd, state)
	if w, h, err := term.GetSize(fd); err == nil && w > 0 {
		s.line.SetSize(w, h)
	}
	return s.line.ReadLine()
}

// command runs a / command; true leaves the chat.
func (s *session) command(text string) bool {
	name, rest, _ := strings.Cut(text, " ")
	switch name {
	case "/exit", "/quit", "/bye":
		return true
	case "/help", "/?":
		fmt.Println(chatHelp)
	case "/clear":
		s.messages = nil
	case "/system":
		s.system, s.messages = strings.TrimSpace(rest), nil
	case "/retry":
		for n := len(s.messages); n > 0 && s.messages[n-1].Role == "assistant"; n = len(s.messages) {
			s.messages = s.messages[:n-1]
		}
		if len(s.messages) > 0 {
			s.opt.Sampling.Seed = randomSeed()
			s.answer()
		}
	case "/stats":
		fmt.Println(s.last)
	default:
		fmt.Printf("%s is unknown; /help lists commands\n", name)
	}
	return false
}

// answer streams the answer to the last question and keeps it. A failed or
// empty answer leaves the question out of the history.
func (s *session) answer() {
	ctx, stop := untilInterrupt()
	defer stop()
	ids, err := s.encode()
	if err != nil {
		note("sestina: %v", err)
		s.messages = s.messages[:len(s.messages)-1]
		return
	}
	var text strings.Builder
	doc := runDocument{}
	var paint *painter
	if s.colour {
		paint = newPainter(s.llm, s.opt.Special)
	}
	for d, err := range s.llm.GenerateIDs(ctx, ids, s.opt) {
		if err != nil {
			note("\nsestina: %v", err)
			break
		}
		fmt.Print(paint.paint(&d))
		text.WriteString(d.Text)
		if d.Result != nil {
			doc.fill(d.Result)
		}
	}
	fmt.Println()
	s.last = doc.summary()
	if text.Len() == 0 {
		s.messages = s.messages[:len(s.messages)-1]
		return
	}
	s.messages = append(s.messages, chat.Message{Role: "assistant", Content: text.String()})
}

// encode renders the conversation. When it no longer leaves room for an answer
// it drops the oldest turns after the system message, and says so.
func (s *session) encode() ([]int32, error) {
	room := min(256, s.llm.Engine.MaxLen()/4)
	for dropped := 0; ; {
		var all []chat.Message
		if s.system != "" {
			all = append(all, chat.Message{Role: "system", Content: s.system})
		}
		ids, err := s.llm.ChatIDs(chat.Input{Messages: append(all, s.messages...), AddGenerationPrompt: true})
		if err != nil {
			return nil, err
		}
		if len(ids)+room <= s.llm.Engine.MaxLen() {
			if dropped > 0 {
				note("(the oldest %d messages no longer fit the context and were dropped)", dropped)
			}
			return ids, nil
		}
		if len(s.messages) < 3 {
			return nil, &scheduler.NeverFitsError{Prompt: len(ids), MaxTokens: room, Limit: s.llm.Engine.MaxLen(), What: "context"}
		}
		s.messages = s.messages[2:]
		dropped += 2
	}
}
