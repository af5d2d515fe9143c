//! A filter as a condition of a statement. Values are bound, never written into it.

use super::{AxisValue, Filter, Number, Term, Test, Text};
use sqlx::{QueryBuilder, Sqlite};

/// The tables that a filter speaks of. The counters say which (condition, state) hold jobs, so that only those are looked into, by
/// index: a filter that names a state costs the jobs in it and a look at every condition.
pub const FROM: &str = " FROM counter
     CROSS JOIN condition ON condition.id = counter.condition_id
     CROSS JOIN experiment ON experiment.id = condition.experiment_id
     CROSS JOIN job INDEXED BY job_by_state ON job.condition_id = counter.condition_id AND job.state = counter.state ";

const LAST_ATTEMPT: &str = "FROM attempt WHERE attempt.job_id = job.id ORDER BY attempt.fence DESC LIMIT 1)";

impl Filter {
    /// Adds ` AND …` for every term to a statement over [`FROM`].
    pub fn push(&self, statement: &mut QueryBuilder<Sqlite>) {
        statement.push(" AND counter.jobs > 0");
        for term in &self.terms {
            statement.push(if term.negated { " AND NOT (" } else { " AND (" });
            term.push(statement);
            statement.push(")");
        }
    }
}

impl Term {
    /// Is true or false, never unknown: a job without an attempt has no class, which is not `io`.
    fn push(&self, statement: &mut QueryBuilder<Sqlite>) {
        match &self.test {
            Test::Is(text, value) => {
                text.push(statement);
                statement.push(" IS ").push_bind(value.clone());
            }
            Test::Has(text, part) => {
                statement.push("instr(lower(coalesce(");
                text.push(statement);
                statement.push(", '')), lower(").push_bind(part.clone()).push(")) > 0");
            }
            Test::Within(number, range) => {
                let column = match number {
                    Number::Job => "job.id",
                    Number::Condition => "condition.id",
                    Number::Seed => "job.seed",
                };
                // Seeds are 64 bits stored as a signed number, so that a range may go from the largest to the smallest.
                let (from, to) = (range.start().cast_signed(), range.end().cast_signed());
                let joined = if from <= to { " AND " } else { " OR " };
                statement.push(column).push(" >= ").push_bind(from);
                statement.push(joined).push(column).push(" <= ").push_bind(to);
            }
            Test::State(state) => {
                statement.push("counter.state = ").push_bind(state.as_str());
            }
            Test::Class(class) => {
                statement.push("(SELECT class ").push(LAST_ATTEMPT).push(" IS ").push_bind(class.as_str());
            }
            Test::Axis(axis, value) => {
                let path = format!("$.{axis}");
                match value {
                    AxisValue::Number(number) => {
                        statement
                            .push("json_extract(condition.axes, ")
                            .push_bind(path)
                            .push(") IS ")
                            .push_bind(*number);
                    }
                    AxisValue::Text(text) => {
                        statement.push("json_extract(condition.axes, ").push_bind(path);
                        statement.push(") IS ").push_bind(text.clone());
                    }
                    AxisValue::Numbers(numbers) => {
                        let numbers: Vec<String> = numbers.iter().map(f64::to_string).collect();
                        let list = format!("[{}]", numbers.join(","));
                        statement.push("json_type(condition.axes, ").push_bind(path.clone()).push(") IS 'array' AND ");
                        let values = |statement: &mut QueryBuilder<Sqlite>| {
                            statement.push("(SELECT group_concat(CAST(value AS REAL)) FROM json_each(");
                        };
                        values(statement);
                        statement.push("condition.axes, ").push_bind(path).push(")) IS ");
                        values(statement);
                        statement.push_bind(list).push("))");
                    }
                }
            }
        }
    }
}

impl Text {
    fn push(self, statement: &mut QueryBuilder<Sqlite>) {
        match self {
            Self::Experiment => statement.push("experiment.name"),
            Self::Subject => statement.push("condition.subject"),
            Self::Region => statement.push("condition.region"),
            Self::Message => statement.push("(SELECT message ").push(LAST_ATTEMPT),
            Self::Worker => statement
                .push("(SELECT (SELECT name FROM worker WHERE worker.id = attempt.worker_id) ")
                .push(LAST_ATTEMPT),
        };
    }
}
