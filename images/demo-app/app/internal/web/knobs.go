package web

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/trouble"
)

// Bounds of what one request can ask for.
const (
	maxWork         = 10 * time.Second
	maxStressFor    = 10 * time.Minute
	maxStressMemory = 2 << 30 // bytes
	maxStressCPU    = 16      // cores
)

// troubled lets a page suffer from the knobs: it is late, and it may fail.
func (s *Server) troubled(page http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		settings, _ := s.board.Get()
		delay := time.Duration(settings.Latency)
		if settings.Jitter > 0 {
			delay += rand.N(time.Duration(settings.Jitter))
		}
		if delay > 0 {
			trouble.Sleep(r.Context(), delay)
		}
		if rand.Float64() < settings.ErrorRate {
			s.fail(w, r, http.StatusInternalServerError, errors.New("the knob error_rate made this request fail"))
			return
		}
		page(w, r)
	})
}

func (s *Server) getKnobs(w http.ResponseWriter, _ *http.Request) {
	settings, _ := s.board.Get()
	reply(w, http.StatusOK, settings)
}

func (s *Server) setKnobs(w http.ResponseWriter, r *http.Request) {
	patch, ok := s.body(w, r)
	if !ok {
		return
	}
	settings, err := s.board.Patch(patch)
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, err)
		return
	}
	s.turned(w, r, settings)
}

func (s *Server) resetKnobs(w http.ResponseWriter, r *http.Request) {
	s.turned(w, r, s.board.Reset())
}

func (s *Server) turned(w http.ResponseWriter, r *http.Request, settings knobs.Settings) {
	s.log.WarnContext(r.Context(), "knobs turned", "knobs", settings, "request_id", requestID(r.Context()))
	reply(w, http.StatusOK, settings)
}

// work computes for ?ms= milliseconds before it answers: load that grows with
// the number of requests, as that of a real app does.
func (s *Server) work(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.Atoi(r.FormValue("ms"))
	if err != nil || ms < 0 || ms > int(maxWork.Milliseconds()) {
		s.fail(w, r, http.StatusBadRequest, fmt.Errorf("work: ms must be a number between 0 and %d", maxWork.Milliseconds()))
		return
	}
	begun := time.Now()
	trouble.Spin(r.Context(), time.Duration(ms)*time.Millisecond)
	reply(w, http.StatusOK, map[string]int64{"ms": time.Since(begun).Milliseconds()})
}

// stress puts ?cpu= cores and ?memory= of load on the app ?for= some time,
// and ends by itself, as opposed to the knobs. It answers when it has ended.
func (s *Server) stress(w http.ResponseWriter, r *http.Request) {
	cpu, size, duration, err := stressArguments(r)
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, err)
		return
	}
	if !s.stressing.CompareAndSwap(false, true) {
		s.fail(w, r, http.StatusConflict, errors.New("stress: one is under way already"))
		return
	}
	defer s.stressing.Store(false)
	// It outlasts the time that an ordinary answer may take.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(duration + time.Minute))
	var memory trouble.Memory
	memory.Resize(int64(size))
	defer memory.Resize(0)
	ended := make(chan struct{})
	ctx, cancel := context.WithTimeout(r.Context(), duration)
	defer cancel()
	go func() {
		trouble.Burn(ctx, cpu)
		close(ended)
	}()
	<-ctx.Done()
	<-ended
	reply(w, http.StatusOK, map[string]any{"cpu": cpu, "memory": size, "for": knobs.Duration(duration)})
}

func stressArguments(r *http.Request) (cpu float64, memory knobs.Size, duration time.Duration, err error) {
	duration = 10 * time.Second
	if v := r.FormValue("cpu"); v != "" {
		if cpu, err = strconv.ParseFloat(v, 64); err != nil || !(cpu >= 0 && cpu <= maxStressCPU) {
			return 0, 0, 0, fmt.Errorf("stress: cpu must be a number between 0 and %d", maxStressCPU)
		}
	}
	if v := r.FormValue("memory"); v != "" {
		if err := memory.UnmarshalText([]byte(v)); err != nil || memory > maxStressMemory {
			return 0, 0, 0, fmt.Errorf("stress: memory must be between 0 and %s", knobs.Size(maxStressMemory))
		}
	}
	if v := r.FormValue("for"); v != "" {
		if duration, err = time.ParseDuration(v); err != nil || duration < 0 || duration > maxStressFor {
			return 0, 0, 0, fmt.Errorf("stress: for must be between 0s and %s", maxStressFor)
		}
	}
	return cpu, memory, duration, nil
}
