package server

import (
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
)

// version is the module's, or the commit it was built from.
var version = func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value[:min(12, len(s.Value))]
		}
	}
	if v == "" {
		v = "unknown"
	}
	return v
}()

var fingerprint = "sestina-" + version

// modelName is what a model is called where no name was chosen: the alias or
// org/repo, and of a local path only the last part.
func modelName(name string) string {
	if filepath.IsAbs(name) || strings.HasPrefix(name, ".") || strings.Contains(name, `\`) || strings.Count(name, "/") > 1 {
		return filepath.Base(name)
	}
	return name
}

type modelCard struct {
	ID          string    `json:"id"`
	Object      string    `json:"object"`
	Created     int64     `json:"created"`
	OwnedBy     string    `json:"owned_by"`
	Root        string    `json:"root"`
	Parent      *string   `json:"parent"`
	MaxModelLen int       `json:"max_model_len"`
	Permission  []any     `json:"permission"`
	Meta        modelMeta `json:"meta"`
}

type modelMeta struct {
	Vocab    int    `json:"n_vocab"`
	Hidden   int    `json:"n_embd"`
	Context  int    `json:"n_ctx_train"`
	Params   uint64 `json:"n_params"`
	Size     uint64 `json:"size"` // bytes
	Arch     string `json:"architecture"`
	KVTokens int    `json:"kv_cache_tokens"`
}

func (s *Server) card(name string) modelCard {
	i := s.llm.Info
	return modelCard{ID: name, Object: "model", Created: s.created, OwnedBy: "sestina", Root: s.names[0], MaxModelLen: s.llm.Engine.MaxLen(),
		Permission: []any{}, Meta: modelMeta{i.Vocab, i.Hidden, i.MaxContext, i.Params, i.FileBytes, i.Arch, s.llm.Pool.Tokens()}}
}

func (s *Server) listModels(w http.ResponseWriter, _ *http.Request, _ *call) *apiError {
	cards := make([]modelCard, len(s.names))
	for i, name := range s.names {
		cards[i] = s.card(name)
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": cards})
	return nil
}

func (s *Server) showModel(w http.ResponseWriter, r *http.Request, _ *call) *apiError {
	name, err := s.served(r.PathValue("id"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, s.card(name))
	return nil
}

// tokenize answers which ids a prompt, or a conversation, becomes.
func (s *Server) tokenize(w http.ResponseWriter, r *http.Request, _ *call) *apiError {
	body, release, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	defer release()
	req := newRequest(chatEndpoint, s.llm.Defaults)
	strs := false
	err = body.object("body", func(name string, v value) (err *apiError) {
		switch f := fieldIndex[chatEndpoint][name]; {
		case v.null():
		case name == "prompt":
			req.endpoint = textEndpoint
			var s string
			s, err = v.str(name)
			req.prompts = []prompt{{text: &s}}
		case name == "add_special_tokens":
			req.addSpecial, err = v.boolean(name)
		case name == "return_token_strs":
			strs, err = v.boolean(name)
		case f != nil:
			err = f.apply(req, v)
		default:
			s.logUnknown(name)
		}
		return err
	})
	if err != nil {
		return err
	}
	if (req.prompts == nil) == (req.messages == nil) {
		return badRequest("prompt", "send either prompt or messages")
	}
	if _, err := s.served(req.model); err != nil {
		return err
	}
	leave, err := s.textPlace(r.Context())
	if err != nil {
		return err
	}
	defer leave()
	ids, err := s.encode(r.Context(), req)
	if err != nil {
		return err
	}
	out := map[string]any{"count": len(ids[0]), "max_model_len": s.llm.Engine.MaxLen(), "tokens": append([]int32{}, ids[0]...), "token_strs": nil}
	if strs {
		names := make([]string, len(ids[0]))
		for i, id := range ids[0] {
			names[i] = s.llm.Tokenizer.Token(id)
		}
		out["token_strs"] = names
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// detokenize is the way back.
func (s *Server) detokenize(w http.ResponseWriter, r *http.Request, _ *call) *apiError {
	body, release, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	defer release()
	var ids []int32
	err = body.object("body", func(name string, v value) (err *apiError) {
		switch name {
		case "tokens":
			ids, err = readIDs(name, v)
		case "model":
			var model string
			if model, err = v.str(name); err == nil {
				_, err = s.served(model)
			}
		default:
			s.logUnknown(name)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case ids == nil:
		return badRequest("tokens", "tokens is missing")
	case s.llm.Tokenizer == nil:
		return badRequest("tokens", "this model has no tokenizer")
	}
	for i, id := range ids {
		if int(id) >= s.llm.Info.Vocab {
			return badRequest("tokens", "tokens[%d] is %d, must be between 0 and %d (the vocabulary)", i, id, s.llm.Info.Vocab-1)
		}
	}
	writeJSON(w, http.StatusOK, map[string]string{"prompt": s.llm.Tokenizer.Decode(ids, false)})
	return nil
}

func (s *Server) showVersion(w http.ResponseWriter, _ *http.Request, _ *call) *apiError {
	writeJSON(w, http.StatusOK, map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
	return nil
}

// health is 200 while new requests are served, 503 otherwise; it says no more than that.
func (s *Server) health(w http.ResponseWriter, _ *http.Request, c *call) *apiError {
	if err := s.unavailable(); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// livez is 200 unless the process must be restarted: an engine that drains or
// is busy lives, a dead one does not.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request, c *call) *apiError {
	if err := s.llm.Engine.Dead(); err != nil {
		c.note(slog.String("cause", err.Error()))
		return errDead
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// load is vLLM's: how many sequences run and wait.
func (s *Server) load(w http.ResponseWriter, _ *http.Request, _ *call) *apiError {
	st := s.llm.Engine.Stats()
	writeJSON(w, http.StatusOK, map[string]int{"server_load": st.Running + st.Waiting})
	return nil
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request, c *call) *apiError {
	return s.health(w, r, c)
}
