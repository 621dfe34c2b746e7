package notes

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Postgres keeps notes in a table of a PostgreSQL database, which all replicas
// of the app share.
type Postgres struct {
	pool *pgxpool.Pool

	mu      sync.Mutex
	created bool // the table exists
}

// Open does not connect yet: the app starts, and says that it is not ready,
// while its database does not answer.
func Open(ctx context.Context, url string) (*Postgres, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err) // without the password: pgx leaves it out
	}
	return &Postgres{pool: pool}, nil
}

// schemaLock is held while the table is created: IF NOT EXISTS alone fails for
// all but one of several replicas that start at the same time.
const schemaLock = 0x6e6f746573 // "notes"

const schema = `
CREATE TABLE IF NOT EXISTS notes (
	id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	text    text NOT NULL,
	created timestamptz NOT NULL DEFAULT now()
)`

// ensure creates the table if it is not there.
func (p *Postgres) ensure(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.created {
		return nil
	}
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(schemaLock)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("create table notes: %w", err)
	}
	p.created = true
	return nil
}

// Add implements Store.
func (p *Postgres) Add(ctx context.Context, text string) (Note, error) {
	if err := p.ensure(ctx); err != nil {
		return Note{}, err
	}
	n := Note{Text: text}
	err := p.pool.QueryRow(ctx, "INSERT INTO notes (text) VALUES ($1) RETURNING id, created", text).Scan(&n.ID, &n.Created)
	if err != nil {
		return Note{}, fmt.Errorf("add note: %w", err)
	}
	n.Created = n.Created.UTC()
	return n, nil
}

// List implements Store.
func (p *Postgres) List(ctx context.Context) ([]Note, error) {
	if err := p.ensure(ctx); err != nil {
		return nil, err
	}
	rows, err := p.pool.Query(ctx, "SELECT id, text, created FROM notes ORDER BY id DESC LIMIT $1", Limit)
	if err != nil {
		return nil, fmt.Errorf("list notes: %w", err)
	}
	notes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Note])
	if err != nil {
		return nil, fmt.Errorf("list notes: %w", err)
	}
	for i := range notes {
		notes[i].Created = notes[i].Created.UTC()
	}
	return notes, nil
}

// Ping implements Store.
func (p *Postgres) Ping(ctx context.Context) error {
	if err := p.ensure(ctx); err != nil {
		return err
	}
	return p.pool.Ping(ctx)
}

// Kind implements Store.
func (p *Postgres) Kind() string { return "postgres" }

// Close implements Store.
func (p *Postgres) Close() { p.pool.Close() }
