"""The SQLite tables of questions and labels, and the query for an annotator's next question."""

TABLES = """
CREATE TABLE IF NOT EXISTS questions (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, content TEXT NOT NULL, needed INTEGER NOT NULL,
    asked REAL NOT NULL, due REAL
);
CREATE TABLE IF NOT EXISTS labels (
    id TEXT PRIMARY KEY, question INTEGER NOT NULL REFERENCES questions, annotator TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('first', 'second', 'tie', 'skip')), at REAL NOT NULL, undone REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_each ON labels (question, annotator) WHERE undone IS NULL;
CREATE INDEX IF NOT EXISTS of_whom ON labels (annotator) WHERE undone IS NULL;
CREATE TABLE IF NOT EXISTS leases (annotator TEXT PRIMARY KEY, question INTEGER NOT NULL, until REAL NOT NULL);
CREATE VIEW IF NOT EXISTS standings AS
    SELECT questions.*, coalesce(said, 0) AS said,
        coalesce(said, 0) < needed AND coalesce(skipped, 0) < needed AS open
    FROM questions LEFT JOIN (
        SELECT question, sum(verdict != 'skip') AS said, sum(verdict = 'skip') AS skipped
        FROM labels WHERE undone IS NULL GROUP BY question
    ) ON question = id;
"""
NEXT = """
SELECT id FROM standings WHERE open
    AND NOT EXISTS (SELECT 1 FROM labels WHERE question = standings.id AND annotator = :me AND undone IS NULL)
    AND said < needed - (
        SELECT count(*) FROM leases WHERE question = standings.id AND annotator != :me AND until > :now
    )
ORDER BY id = (SELECT question FROM leases WHERE annotator = :me) DESC, coalesce(due <= :now, 0), id LIMIT 1
"""
