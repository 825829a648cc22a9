package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"sestina"
	"sestina/chat"
	"sestina/engine"
	"sestina/sampler"
	"sestina/scheduler"
)

// apiError is the one error that leaves the server. Its text is written here or
// is about the request alone: no path, no address, no detail of the machine.
type apiError struct {
	Status     int
	Message    string
	Param      string // the field at fault, "" = none
	RetryAfter int    // seconds, 0 = not said
}

func (e *apiError) Error() string { return e.Message }

// errorTypes are the API's names of the statuses.
var errorTypes = map[int]string{
	http.StatusBadRequest:            "invalid_request_error",
	http.StatusUnauthorized:          "authentication_error",
	http.StatusForbidden:             "permission_error",
	http.StatusNotFound:              "not_found_error",
	http.StatusMethodNotAllowed:      "invalid_request_error",
	http.StatusRequestEntityTooLarge: "request_too_large",
	http.StatusUnsupportedMediaType:  "invalid_request_error",
	http.StatusTooManyRequests:       "rate_limit_error",
	http.StatusInternalServerError:   "server_error",
	http.StatusServiceUnavailable:    "unavailable_error",
}

// MarshalJSON is {"message", "type", "param", "code"}: code is the HTTP status,
// param null where no field is at fault.
func (e *apiError) MarshalJSON() ([]byte, error) {
	var param *string
	if e.Param != "" {
		param = &e.Param
	}
	return json.Marshal(struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	}{e.Message, errorTypes[e.Status], param, e.Status})
}

// errorBody is the body of an error reply and the data of an error event.
type errorBody struct {
	Error *apiError `json:"error"`
}

func writeError(w http.ResponseWriter, e *apiError) {
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	writeJSON(w, e.Status, errorBody{e})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := encode(v)
	if err != nil { // only a NaN or an infinity could do this; neither is ever put into a reply
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

func badRequest(param, format string, args ...any) *apiError {
	return &apiError{Status: http.StatusBadRequest, Param: param, Message: fmt.Sprintf(format, args...)}
}

func notBuilt(param string) *apiError {
	return badRequest(param, "%s is not supported by this server yet; leave it out", param)
}

var (
	errInternal = &apiError{Status: http.StatusInternalServerError, Message: "internal error; the server's log has the detail under this request id"}
	errDraining = &apiError{Status: http.StatusServiceUnavailable, Message: "the server is shutting down; retry elsewhere", RetryAfter: 5}
	errDead     = &apiError{Status: http.StatusServiceUnavailable, Message: "the engine is not running; the server must be restarted", RetryAfter: 30}
	errStuck    = &apiError{Status: http.StatusServiceUnavailable, Message: "the engine does not answer; retry elsewhere", RetryAfter: 10}
	errFull     = &apiError{Status: http.StatusTooManyRequests, Message: "too many requests are waiting; retry later", RetryAfter: 1}
	errShare    = &apiError{Status: http.StatusTooManyRequests, Message: "this API key has its share of the queue in use; retry when some of its requests have ended", RetryAfter: 1}
	errLate     = &apiError{Status: http.StatusTooManyRequests, Message: "the request waited too long for a place; retry later", RetryAfter: 5}
)

// errLeft is a client that closed its connection or stopped reading. Nobody is
// there to read it; the log shows its status.
var errLeft = &apiError{Status: 499, Message: "the client left or did not read"}

// translate turns an error of the façade, the engine or the scheduler into the
// API's; what is unknown is an internal error, whose text stays in the log.
func translate(err error) *apiError {
	var (
		api     *apiError
		param   *sampler.ParamError
		fits    *scheduler.NeverFitsError
		refused *chat.TemplateError
		render  *chat.RenderError
		invalid *engine.InvalidError
	)
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &param):
		return badRequest(param.Param, "%s", param.Error())
	case errors.As(err, &invalid):
		return badRequest("prompt", "%s", invalid.Message)
	case errors.As(err, &fits):
		return badRequest("max_tokens", "%s", fits.Error())
	case errors.As(err, &refused):
		return badRequest("messages", "the model's chat template refuses these messages: %s", refused.Message)
	case errors.Is(err, chat.ErrBudget):
		return badRequest("messages", "these messages cost the chat template too much work; shorten them")
	case errors.As(err, &render):
		return badRequest("messages", "the model's chat template cannot render these messages (%s)", render.Err)
	case errors.Is(err, sestina.ErrNoTemplate):
		return badRequest("messages", "this model has no chat template; use /v1/completions")
	case errors.Is(err, sestina.ErrNoTokenizer):
		return badRequest("prompt", "this model has no tokenizer; send the prompt as token ids to /v1/completions, without stop strings")
	case errors.Is(err, engine.ErrQueueFull):
		return errFull
	case errors.Is(err, engine.ErrQueueShare):
		return errShare
	case errors.Is(err, engine.ErrQueueTimeout):
		return errLate
	case errors.Is(err, engine.ErrDraining), errors.Is(err, engine.ErrShutdown), errors.Is(err, engine.ErrClosed):
		return errDraining
	case errors.Is(err, engine.ErrStuck):
		return errStuck
	case errors.Is(err, engine.ErrDead):
		return errDead
	}
	return errInternal
}
