-- one server, three databases; PostgreSQL's image runs this once, on an empty volume
CREATE DATABASE registry;
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
