"""A million small items through a job, beside a script that somebody writes in an hour."""
